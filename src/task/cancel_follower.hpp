// CancelFollower: asks a source when another's token is asked, for what waits for the first of several.
#pragma once

#include "task/cancel.hpp"

namespace tidemark {

class CancelFollower final : public CancelWaiter {
 public:
  CancelFollower(CancelSource& follower, CancelToken first) : follower_(follower) {
    if (first.requested()) follower_.request();
    else first.add(*this);
  }
  void on_cancel() noexcept override { follower_.request(); }

 private:
  CancelSource& follower_;
};

}  // namespace tidemark
