#include "tests/contract/io/worlds.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"
#ifdef TIDEMARK_SIM
#include "tests/contract/io/sim_world.hpp"
#endif

namespace tidemark::contract {
namespace {

using Made = Result<std::unique_ptr<IoBackend>>;
using MakeBackend = Made (*)();

class HostWorld final : public World {
 public:
  HostWorld(MakeBackend make, std::string parent) : backend_(*make()) {
    directory_ = parent + "/tidemark-io-XXXXXX";
    TM_ASSERT(::mkdtemp(directory_.data()));
  }
  ~HostWorld() override { std::filesystem::remove_all(directory_); }
  IoBackend& backend() override { return *backend_; }
  std::string directory() override { return directory_; }

 private:
  std::unique_ptr<IoBackend> backend_;
  std::string directory_;
};

std::string disk() { return std::filesystem::temp_directory_path(); }
std::string memory() { return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : disk(); }

Made threads() { return make_threads_backend(); }
Made uring() { return make_uring_backend(); }

template <MakeBackend make, std::string (*parent)()>
std::unique_ptr<World> host() {
  return std::make_unique<HostWorld>(make, parent());
}

}  // namespace

const std::vector<WorldCase>& worlds() {
  static const std::vector<WorldCase> all = [] {
    std::vector<WorldCase> cases = {
        {"threads_disk", host<threads, disk>},
        {"threads_memory", host<threads, memory>},
#ifdef TIDEMARK_SIM
        {"simulation", make_sim_world},
#endif
    };
    if (const Made tried = uring()) {
      cases.push_back({"uring_disk", host<uring, disk>});
      cases.push_back({"uring_memory", host<uring, memory>});
    } else {
      std::fprintf(stderr, "io_uring is left out: %s\n", tried.error().message().c_str());
    }
    return cases;
  }();
  return all;
}

}  // namespace tidemark::contract
