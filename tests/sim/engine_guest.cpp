// Guests: what machines do to their disks.
#include "io/aligned.hpp"
#include "tests/sim/engine_session.hpp"

namespace tidemark::sim {
namespace {

constexpr std::uint64_t everything = max_disk_size;
enum How { written, written_durably, zeroed, unmapped, discarded, how_many };
constexpr const char* names[] = {"writes", "writes durably", "zeroes", "unmaps", "discards"};

}  // namespace

Task<> Session::guest(Guest& guest) {
  while (!stop_guests_) {
    co_await guest_step(guest);
    if (random_.chance(1, 2)) co_await dally();
  }
}

Task<> Session::guest_step(Guest& guest) {
  const std::uint64_t choice = random_.below(40);
  if (choice < 4) co_return co_await flush(guest);
  // A qcow2 image whose header could not be synced says that it is corrupt, by design.
  if (choice == 4 && !guest.disk.may_fail) co_return co_await resize(guest);
  const std::uint64_t unit = random_.chance(1, 3) ? 4096 : sector;
  const std::uint64_t units = guest.disk.content.size() / unit, at = random_.below(units);
  const std::uint64_t most = std::min<std::uint64_t>(units - at, random_.chance(1, 5) ? 40 : 5);
  const Range range{at * unit, (1 + random_.below(most)) * unit};
  auto guard = guest.lock.hold(range, RangeLock::Mode::exclusive);
  co_await guard;
  if (range.end() > guest.disk.content.size()) co_return;      // it shrank
  const int how = choice < 12 ? static_cast<int>(choice) % how_many : written;
  const Stamp stamp = how <= written_durably ? ++machine_.last_stamp : 0;
  co_await change(guest, range, stamp, how);
}

void Session::tell(const Guest& guest, std::string_view what, Range range, Stamp stamp) const {
  if (!plan_.trace) return;
  plan_.trace("guest of " + guest.disk.plan.node + " " + std::string(what) + " " + std::to_string(range.offset) + "+" +
              std::to_string(range.length) + " stamp " + std::to_string(stamp));
}

Task<> Session::flush(Guest& guest) {
  const DiskModel::Flush flush = guest.disk.content.begin_flush();
  tell(guest, "flushes", {}, 0);
  const Result<> done = co_await guest.edge->flush().result();
  if (!done && !alive()) co_await done.error();
  tell(guest, done ? "has flushed" : "could not flush", {}, 0);
  if (done) guest.disk.content.end_flush(flush);
  else if (!guest.disk.may_fail) complain("a guest's flush failed: " + done.error().message());
}

Task<> Session::change(Guest& guest, Range range, Stamp stamp, int how) {
  DiskModel& content = guest.disk.content;
  const std::uint64_t write = content.begin(range, stamp);
  tell(guest, names[how], range, stamp);
  AlignedBuffer data(range.length);
  fill_with(data.bytes(), stamp);
  Result<> done;
  switch (how) {
    case zeroed: done = co_await guest.edge->write_zeroes(range).result(); break;
    case unmapped: done = co_await guest.edge->write_zeroes(range, WriteFlags::may_unmap).result(); break;
    case discarded: done = co_await guest.edge->discard(range).result(); break;
    case written_durably: done = co_await guest.edge->write(range.offset, data.bytes(), WriteFlags::fua).result(); break;
    default: done = co_await guest.edge->write(range.offset, data.bytes()).result(); break;
  }
  if (!done && !alive()) co_await done.error();
  tell(guest, std::string(names[how]) + (done ? ": done" : ": " + done.error().message()), range, stamp);
  if (!done && !guest.disk.may_fail) {
    complain("a guest's request failed: " + done.error().message());
    co_await done.error();
  }
  if (done && how != discarded) {
    co_return content.end(write, how == written_durably);
  }
  content.fail(write);
  co_await look(guest, write, range);
}

Task<> Session::look(Guest& guest, std::uint64_t write, Range range) {
  AlignedBuffer data(range.length);
  for (;;) {
    const Result<> read = co_await guest.edge->read(range.offset, data.bytes()).result();
    if (read) break;
    if (!alive() || !guest.disk.may_fail) co_await read.error();
  }
  const Result<Stamps> seen = stamps_of(data.bytes());
  Result<> right = seen ? guest.disk.content.settle(write, *seen) : Result<>(seen.error());
  if (right) co_return;
  complain("disk " + guest.disk.plan.node + ": " + right.error().message());
  co_await right.error();
}

// A little smaller, and larger again.
Task<> Session::resize(Guest& guest) {
  const Range all{0, everything};
  auto guard = guest.lock.hold(all, RangeLock::Mode::exclusive);
  co_await guard;
  DiskModel& content = guest.disk.content;
  const std::uint64_t size = guest.disk.base.size() * sector - random_.below(40) * sector;
  if (size == content.size()) co_return;
  content.begin_resize(size);
  tell(guest, "resizes to", {size, 0}, 0);
  const Result<> done = co_await guest.edge->truncate(size).result();
  if (!done && !alive()) co_await done.error();
  tell(guest, done ? "has resized" : "could not resize", {guest.edge->size(), 0}, 0);
  content.end_resize(guest.edge->size() == size);
}

Task<Stamps> Session::read(Edge& edge) {
  AlignedBuffer content(edge.size());
  co_await edge.read(0, content.bytes());
  co_return co_await unwrap(stamps_of(content.bytes()));
}

}  // namespace tidemark::sim
