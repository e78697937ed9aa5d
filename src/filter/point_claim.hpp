// Point::Claim: granules taken out of `todo`, to be copied by one.
//
// What is neither kept nor dropped by its end goes back, as it came: `staged` or `zero` it stays, and what a guest has
// overwritten meanwhile is staged.
#pragma once

#include "filter/point.hpp"

namespace tidemark {

class Point::Claim {
 public:
  Claim(Point& point, Candidate candidate, std::unique_ptr<Reading> reading)
      : point_(point), range_(candidate.range), kind_(candidate.kind), reading_(std::move(reading)) {
    hold_.emplace(point.holds_.hold(range_));
    point_.todo_.clear(range_);
    point_.claimed_.set(range_);
    if (kind_ == Kind::staged) point_.staged_.clear(range_);
    if (kind_ == Kind::zero) point_.zero_.clear(range_);
  }
  Claim(const Claim&) = delete;
  ~Claim() { give_back(range_); }

  Range range() const noexcept { return range_; }

  // Gives back all but the first `length` bytes, whole granules.
  void shrink(std::uint64_t length) noexcept {
    if (length >= range_.length) return;
    const Range rest{range_.offset + length, range_.length - length};
    range_.length = length;
    hold_->shrink(length);
    give_back(rest);
  }
  // For a point with a stage: the disk may change from here on.  What has to go back then is `kind`, and of what is
  // overwritten, unless all is zeroes, `data` has what the stage has not; it outlives the claim.
  void let_go(Kind kind, Bytes data = {}) noexcept {
    if (!point_.stage_) return;
    kind_ = kind;
    data_ = data;
    hold_.reset();
    reading_.reset();
  }
  void keep() noexcept {
    point_.kept_.set(range_);
    point_.copied_bytes_ += range_.length;
    settle();
  }
  void drop() noexcept {
    point_.inside_.clear(range_);
    settle();
  }

 private:
  void settle() noexcept {
    point_.claimed_.clear(range_);
    if (point_.stage_) point_.overwritten_.clear(range_);
    point_.holds_.look_again();
    range_.length = 0;
  }
  void give_back(Range range) noexcept {
    if (range.empty()) return;
    if (point_.stage_) stage_overwritten(range);
    point_.claimed_.clear(range);
    point_.todo_.set(range);
    if (kind_ == Kind::staged) point_.staged_.set(range);
    if (kind_ == Kind::zero) point_.zero_.set(range);
    point_.holds_.look_again();
    if (kind_ == Kind::staged) point_.stage_->look_again();
  }

  // All else can be read again.
  void stage_overwritten(Range range) noexcept {
    DirtyAreas lost(point_.overwritten_, range);
    while (const auto area = lost.next()) {
      if (data_.empty()) continue;
      point_.stage_->add(area->offset, data_.subspan(area->offset - range_.offset, area->length));
      kind_ = Kind::staged;
    }
    point_.overwritten_.clear(range);
  }

  Point& point_;
  Range range_;
  Kind kind_;
  Bytes data_;
  std::unique_ptr<Reading> reading_;
  std::optional<Holds::Hold> hold_;
};

}  // namespace tidemark
