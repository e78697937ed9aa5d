#include "io/writers.hpp"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <unistd.h>

namespace tidemark {

// The kernel grants a lease for reading while there are no writers.  Of one that comes in the moment that it is held the holder is
// told by a signal, which must be one that does nothing.
Writers writers_of(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (file < 0) return Writers::unknown;
  Writers found = Writers::unknown;
  if (::fcntl(file, F_SETSIG, SIGURG) == 0) {
    if (::fcntl(file, F_SETLEASE, F_RDLCK) == 0) found = Writers::none;
    else if (errno == EAGAIN) found = Writers::some;
  }
  if (found == Writers::none) (void)::fcntl(file, F_SETLEASE, F_UNLCK);
  (void)::close(file);
  return found;
}

}  // namespace tidemark
