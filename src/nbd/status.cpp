#include "nbd/status.hpp"

#include <cerrno>

namespace tidemark::nbd {

Status status_of(const Error& error) noexcept {
  switch (error.to_errno()) {
    case EPERM:
    case EACCES:
    case EROFS: return Status::not_permitted;
    case ENOMEM: return Status::no_memory;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return Status::no_space;
    case EINVAL:
    case ERANGE:
    case EOVERFLOW:
    case ENOTSUP: return Status::invalid;
    case ESHUTDOWN: return Status::shutdown;
    default: return Status::io_error;
  }
}

Status known_status(std::uint32_t field) noexcept {
  const auto status = static_cast<Status>(field);
  switch (status) {
    case Status::ok:
    case Status::not_permitted:
    case Status::io_error:
    case Status::no_memory:
    case Status::invalid:
    case Status::no_space:
    case Status::overflow:
    case Status::not_supported:
    case Status::shutdown: return status;
  }
  return Status::invalid;
}

int to_errno(Status status) noexcept {
  switch (status) {
    case Status::ok: return 0;
    case Status::not_permitted: return EPERM;
    case Status::io_error: return EIO;
    case Status::no_memory: return ENOMEM;
    case Status::invalid: return EINVAL;
    case Status::no_space: return ENOSPC;
    case Status::overflow: return EOVERFLOW;
    case Status::not_supported: return ENOTSUP;
    case Status::shutdown: return ESHUTDOWN;
  }
  return EINVAL;
}

std::string_view to_string(Status status) noexcept {
  switch (status) {
    case Status::ok: return "Success";
    case Status::not_permitted: return "Operation not permitted";
    case Status::io_error: return "Input/output error";
    case Status::no_memory: return "Cannot allocate memory";
    case Status::invalid: return "Invalid argument";
    case Status::no_space: return "No space left on device";
    case Status::overflow: return "Value too large";
    case Status::not_supported: return "Operation not supported";
    case Status::shutdown: return "Server is in the process of being shut down";
  }
  return "Invalid argument";
}

}  // namespace tidemark::nbd
