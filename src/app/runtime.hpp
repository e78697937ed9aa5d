// What both programs begin with: standard streams, and the reactor's backend as the machine and the user want it.
#pragma once

#include <memory>
#include <string_view>

#include "control/graph/homes.hpp"

namespace tidemark {

// `aio`: "io_uring", "threads", or "" for io_uring where the kernel grants it and threads elsewhere.
Result<std::unique_ptr<IoBackend>> make_backend(std::string_view aio, const ThreadOptions& options = {});

// Standard streams that were closed lead nowhere from here on: otherwise the next file that is opened takes
// their number, and messages are written into it.  First in main().
void open_standard_streams() noexcept;
// As many as this user may have: a chain of a thousand layers is a thousand files.
void allow_many_files() noexcept;

// One line on standard error, whether that can be written or not: "PROGRAM: message", or as JSON
// {"error": {"kind": "busy", "message": "..."}}.
void complain(std::string_view program, const Error& error, bool json);

}  // namespace tidemark
