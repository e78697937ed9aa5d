#include "io/owner.hpp"

#include <cerrno>

#include <sys/stat.h>
#include <unistd.h>

namespace tidemark {

// The mode last: changing the owner may take bits from it.
Result<> take_over_owner(const std::string& from, const std::string& to) {
  constexpr mode_t permissions = 07777;
  struct stat wanted, now;
  if (::stat(from.c_str(), &wanted) != 0) return Error::from_errno(errno, "stat '" + from + "'");
  if (::stat(to.c_str(), &now) != 0) return Error::from_errno(errno, "stat '" + to + "'");
  const bool same = wanted.st_uid == now.st_uid && wanted.st_gid == now.st_gid;
  if (!same && ::chown(to.c_str(), wanted.st_uid, wanted.st_gid) != 0)
    return Error::from_errno(errno, "give '" + to + "' the owner of '" + from + "'");
  if (::chmod(to.c_str(), wanted.st_mode & permissions) != 0)
    return Error::from_errno(errno, "give '" + to + "' the mode of '" + from + "'");
  return {};
}

}  // namespace tidemark
