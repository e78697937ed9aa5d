// Box<T>: a T on the heap that copies and moves as a value would.  It lets a type of the schema
// hold itself.  Never empty, except after it was moved from.
#pragma once

#include <memory>
#include <utility>

#include "base/assert.hpp"

namespace tidemark::schema {

template <class T>
class Box {
 public:
  Box() : value_(std::make_unique<T>()) {}
  Box(T value) : value_(std::make_unique<T>(std::move(value))) {}
  Box(const Box& o) : value_(std::make_unique<T>(*o)) {}
  Box(Box&& o) noexcept = default;
  Box& operator=(Box o) noexcept {
    value_.swap(o.value_);
    return *this;
  }
  ~Box() = default;

  T& operator*() noexcept { return get(); }
  const T& operator*() const noexcept { return get(); }
  T* operator->() noexcept { return &get(); }
  const T* operator->() const noexcept { return &get(); }

 private:
  T& get() const noexcept {
    TM_ASSERT(value_);
    return *value_;
  }
  std::unique_ptr<T> value_;
};

}  // namespace tidemark::schema
