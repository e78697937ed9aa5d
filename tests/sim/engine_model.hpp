// What the disks, bitmaps and backups of a simulated machine are to be, kept by those who use the engine and told
// of nothing by it.
//
// All of it is a value: each crash that is tried has a copy of its own.
//
// Every write fills its sectors with a stamp of its own; zeroes are stamp 0.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "base/units.hpp"

namespace tidemark::sim {

using Stamp = std::uint32_t;
using Stamps = std::vector<Stamp>;                 // one a sector
inline constexpr std::uint64_t sector = 512;
inline constexpr Stamp no_stamp = ~Stamp{0};       // that no sector holds

void fill_with(MutableBytes bytes, Stamp stamp);
// An error names the first sector that holds more than one stamp.
Result<Stamps> stamps_of(Bytes content);

// What a disk held at one moment, as far as it is known.
struct Point {
  struct Maybe {
    Range range;
    Stamp stamp;
  };
  Stamps content;
  std::vector<Maybe> maybe;                        // or this: it was under way, or failed

  Stamp at(std::size_t index) const noexcept { return index < content.size() ? content[index] : 0; }
  bool allows(std::size_t index, Stamp stamp) const noexcept;
};
using PointPtr = std::shared_ptr<const Point>;

class DiskModel {
 public:
  explicit DiskModel(Stamps content) : visible_(content), durable_(std::move(content)) { sizes_ = {size()}; }
  std::uint64_t size() const noexcept { return visible_.size() * sector; }
  const Stamps& visible() const noexcept { return visible_; }
  std::uint64_t writes_ended() const noexcept { return ended_; }

  // Writes of one sector come one after the other.  Of one that failed, and of a discard, nobody knows what it
  // did until it is read.
  std::uint64_t begin(Range range, Stamp stamp);
  void end(std::uint64_t write, bool durable = false);
  void fail(std::uint64_t write);
  Result<> settle(std::uint64_t write, const Stamps& seen);

  // What had ended when a flush began is durable when it has ended.
  struct Flush {
    std::vector<std::uint64_t> writes;
    std::uint64_t sizes;                           // ever
  };
  Flush begin_flush() const;
  void end_flush(const Flush& flush);
  void all_durable() { end_flush(begin_flush()); }

  // Nothing else is under way.
  void begin_resize(std::uint64_t size);
  void end_resize(bool well);

  // While nothing is under way in the engine.
  PointPtr now() const;
  // A moment between this call and forget(): what begins until then may be there or not.
  std::shared_ptr<Point> watch();
  void forget(const std::shared_ptr<Point>& watched) { std::erase(watched_, watched); }

  // After a crash, and when the daemon was killed: not all that is seen is durable then.
  Result<> check(const Stamps& seen) const;
  void restart(const Stamps& seen, bool durable);

 private:
  struct Write {
    std::uint64_t number;
    Range range;
    Stamp stamp;
    enum class State : std::uint8_t { under_way, failed, ended } state = State::under_way;
    Stamps seen{};                                 // what is there, when it is not the stamp
    bool durable = false;                          // at once: what came before is gone

    Stamp at(std::size_t index) const noexcept { return seen.empty() ? stamp : seen[index - range.offset / sector]; }
  };
  bool may_hold(std::size_t index, Stamp stamp) const noexcept;
  std::string known() const;
  bool may_have_size(std::uint64_t size) const noexcept;
  Write* find(std::uint64_t number);
  void apply(const Write& write, Stamps& to) const;

  Stamps visible_, durable_;
  std::vector<Write> recent_;                      // not known to be durable, in their order
  std::vector<std::uint64_t> sizes_;               // the first is durable
  std::uint64_t sizes_gone_ = 0;                   // that came before these
  bool resizing_ = false;
  std::uint64_t begun_ = 0, ended_ = 0;
  std::vector<std::shared_ptr<Point>> watched_;
};

// What a bitmap may be: not there, or dirty wherever the disk is not what it was at any of the points.  One that
// does not record has none.
struct BitmapState {
  bool there = true;
  bool recording = true;
  std::vector<PointPtr> since{};
};
struct BitmapModel {
  bool persistent = true;
  std::uint32_t granularity = 4096;
  std::vector<BitmapState> may_be{};               // one of these; more than one only while it changes

  void settle(BitmapState state) { may_be = {std::move(state)}; }
};

// A finished backup, by the names of files.
struct Backup {
  std::size_t disk;
  std::string path, format;
  PointPtr point;
  bool top_only = false;                           // what lies below is not in it
};

// Backups of one disk that build on each other; the newest is last.
struct Chain {
  std::vector<std::string> layers{};
  PointPtr point{};                                // of the last
  std::string bitmap{};                            // what changed since
  std::string under_way{};                         // a target that nobody knows to be finished
  bool began = false;                              // its job did
};

struct DiskPlan {
  std::string node, path, format;                  // "raw", "qcow2"
  std::uint64_t cluster_size = 65536;
  bool backing = false;                            // on /base.N
  std::string tracking = "power";
};

struct MachineDisk {
  DiskPlan plan;
  DiskModel content;
  Stamps base{};                                   // of its backing file
  std::map<std::string, BitmapModel> bitmaps{};
  Chain own{}, incremental{};                      // tidemark's way, QEMU's way
  // Whether its tracking survives that.
  bool lasts(bool after_crash, bool after_kill) const {
    return plan.tracking == "power" || (!after_crash && (plan.tracking == "process" || !after_kill));
  }
  bool may_fail = false;                           // reads and writes of it do now and then
  bool may_have_failed = false;                    // in the session before
  bool tracking_ended = false;                     // by what it does not survive, since it was last looked at
  bool store_failed = false;                       // bitmaps may be gone, since an earlier session
  bool store_fails = false;                        // since this one, or is about to: a crash may come before it is told
};

inline constexpr const char* scratch = "/scratch";   // where staged data spills to

struct Machine {
  std::vector<MachineDisk> disks{};
  std::vector<Backup> backups{};
  Stamp last_stamp = 0;
  unsigned last_name = 0;
  std::map<std::string, Backup> done{};            // by path, from the moment that their jobs succeeded
  bool targets_fail = false, stores_fail = false;
  std::set<std::string> litter{};                  // targets that a crash leaves to who restarts

  std::string new_name(std::string_view kind) { return std::string(kind) + std::to_string(++last_name); }
};

}  // namespace tidemark::sim
