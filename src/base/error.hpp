// Error and Result: what went wrong, in a form code can match on and a person can read.
//
//   Errc      a small, stable kind; control flow matches on this only
//   message   one line that names the thing and the reason: "open 'a.qcow2': L1 table not aligned"
//   errno     the operating system's number when it had one, for error policies and NBD replies
//
// An Error is one shared pointer: a Result<T> that succeeded costs no more than T and a word.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/assert.hpp"

namespace tidemark {

enum class Errc : std::uint8_t {
  io,                 // a device, file or peer failed a request
  no_space,           // ENOSPC, EDQUOT, or a budget used up
  out_of_range,       // a request beyond the end of a disk, or a number out of its limits
  invalid_argument,   // the caller asked for something that makes no sense
  invalid_format,     // not the format it was opened as, or malformed input
  corrupt,            // the format it was opened as, but damaged
  unsupported,        // legal, but not done here
  not_found,
  exists,
  busy,               // in use by another, locked, permissions conflict
  permission,
  cancelled,
  timed_out,
  disconnected,       // the peer went away
  device_not_found,   // QMP's error classes of these names
  device_not_active,
  command_not_found,
};

std::string_view to_string(Errc code) noexcept;

class [[nodiscard]] Error {
 public:
  Error(Errc code, std::string message, int os_errno = 0);

  // From an errno value: picks the Errc, appends the system's text for it.
  static Error from_errno(int os_errno, std::string_view what);

  Errc code() const noexcept { return rep_->code; }
  int os_errno() const noexcept { return rep_->os_errno; }   // 0 when there was none
  const std::string& message() const noexcept { return rep_->message; }

  // The errno that best expresses this error to a peer that speaks errno (NBD, guests).
  int to_errno() const noexcept;

  // "context: message"
  [[nodiscard]] Error with_context(std::string_view context) const;

 private:
  struct Rep {
    Errc code;
    int os_errno;
    std::string message;
  };
  explicit Error(std::shared_ptr<const Rep> rep) : rep_(std::move(rep)) {}
  std::shared_ptr<const Rep> rep_;
};

template <class T = void>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  T& operator*() & { return value(); }
  const T& operator*() const& { return const_cast<Result*>(this)->value(); }
  T&& operator*() && { return std::move(value()); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &const_cast<Result*>(this)->value(); }

  const Error& error() const {
    TM_ASSERT(!ok());
    return *std::get_if<1>(&state_);
  }

 private:
  T& value() {
    TM_ASSERT(ok());
    return *std::get_if<0>(&state_);
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return ok(); }
  void operator*() const { TM_ASSERT(ok()); }

  const Error& error() const {
    TM_ASSERT(!ok());
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

}  // namespace tidemark
