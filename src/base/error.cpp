#include "base/error.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tidemark {

void assertion_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
  std::abort();
}

std::string_view to_string(Errc code) noexcept {
  switch (code) {
    case Errc::io: return "I/O error";
    case Errc::no_space: return "no space";
    case Errc::out_of_range: return "out of range";
    case Errc::invalid_argument: return "invalid argument";
    case Errc::invalid_format: return "invalid format";
    case Errc::corrupt: return "corrupt";
    case Errc::unsupported: return "unsupported";
    case Errc::not_found: return "not found";
    case Errc::exists: return "exists";
    case Errc::busy: return "busy";
    case Errc::permission: return "permission denied";
    case Errc::cancelled: return "cancelled";
    case Errc::timed_out: return "timed out";
    case Errc::disconnected: return "disconnected";
    case Errc::device_not_found: return "device not found";
    case Errc::device_not_active: return "device not active";
    case Errc::command_not_found: return "command not found";
  }
  return "unknown";
}

namespace {

struct ErrnoRow {
  int os_errno;
  Errc code;
};

// The first row of a code is the errno that stands for it towards peers.
constexpr ErrnoRow errno_table[] = {
    {EIO, Errc::io},
    {ENOSPC, Errc::no_space},      {EDQUOT, Errc::no_space},     {EFBIG, Errc::no_space},
    {EINVAL, Errc::invalid_argument}, {EINVAL, Errc::out_of_range}, {ERANGE, Errc::out_of_range},
    {ENOTSUP, Errc::unsupported},  {ENOSYS, Errc::unsupported},
    {ENOENT, Errc::not_found},     {ENXIO, Errc::not_found},     {ENOTDIR, Errc::not_found},
    {EEXIST, Errc::exists},        {ENOTEMPTY, Errc::exists},
    {EBUSY, Errc::busy},           {ETXTBSY, Errc::busy},        {EADDRINUSE, Errc::busy},
    {EPERM, Errc::permission},     {EACCES, Errc::permission},   {EROFS, Errc::permission},
    {ECANCELED, Errc::cancelled},
    {ETIMEDOUT, Errc::timed_out},
    {ENOTCONN, Errc::disconnected}, {ECONNRESET, Errc::disconnected},
    {EPIPE, Errc::disconnected},   {ECONNREFUSED, Errc::disconnected},
};

Errc code_of(int os_errno) noexcept {
  for (const auto& row : errno_table)
    if (row.os_errno == os_errno) return row.code;
  return Errc::io;
}

}  // namespace

Error::Error(Errc code, std::string message, int os_errno)
    : rep_(std::make_shared<const Rep>(Rep{code, os_errno, std::move(message)})) {}

Error Error::from_errno(int os_errno, std::string_view what) {
  char buffer[128];
  const char* text = strerror_r(os_errno, buffer, sizeof buffer);   // GNU form: returns the text
  std::string message(what);
  message += ": ";
  message += text;
  return Error(code_of(os_errno), std::move(message), os_errno);
}

int Error::to_errno() const noexcept {
  if (os_errno() != 0) return os_errno();
  for (const auto& row : errno_table)
    if (row.code == code()) return row.os_errno;
  return EIO;
}

Error Error::with_context(std::string_view context) const {
  std::string message(context);
  message += ": ";
  message += this->message();
  return Error(code(), std::move(message), os_errno());
}

}  // namespace tidemark
