#include "io/owner.hpp"

#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tidemark {
namespace {

// By the descriptor: in a directory of others its name may lead to another file at any moment, which must be the one that was made here.
// The mode last, for changing the owner may take bits from it.  Who may not give files away keeps it as it is.
Result<> give(int file, const struct stat& wanted, const std::string& name) {
  constexpr mode_t permissions = 0777;
  struct stat now;
  if (::fstat(file, &now) != 0) return Error::from_errno(errno, "stat '" + name + "'");
  if (!S_ISREG(now.st_mode) || now.st_nlink != 1)
    return Error(Errc::permission, "'" + name + "' is not the file that was made: somebody has replaced it");
  if (now.st_uid != ::geteuid()) return {};        // a daemon of another user has made it
  const bool same = wanted.st_uid == now.st_uid && wanted.st_gid == now.st_gid;
  if (!same && ::fchown(file, wanted.st_uid, wanted.st_gid) != 0) {
    if (errno == EPERM) return {};
    return Error::from_errno(errno, "give '" + name + "' its owner");
  }
  const bool same_mode = (wanted.st_mode & permissions) == (now.st_mode & permissions);
  if (!same_mode && ::fchmod(file, wanted.st_mode & permissions) != 0) return Error::from_errno(errno, "give '" + name + "' its mode");
  return {};
}

}  // namespace

Result<> take_over_owner(const std::string& from, const std::string& to) {
  struct stat wanted;
  if (::stat(from.c_str(), &wanted) != 0) return Error::from_errno(errno, "stat '" + from + "'");
  const int file = ::open(to.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return Error::from_errno(errno, "open '" + to + "'");
  auto given = give(file, wanted, to);
  (void)::close(file);
  return given;
}

}  // namespace tidemark
