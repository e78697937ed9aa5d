#include "storage/image_lock.hpp"

#include <array>

namespace tidemark {
namespace {

constexpr std::uint64_t used_byte = 100, unshared_byte = 200;
constexpr std::uint64_t maker_byte = 300;      // none that QEMU looks at

// What a process had under way when it was killed holds its locks until it has ended.
constexpr Duration patience = std::chrono::milliseconds(300), pause = std::chrono::milliseconds(10);

struct Permission {
  unsigned bit;
  std::string_view name;  // QEMU's, in its messages
};
constexpr std::array<Permission, 4> permissions_known{
    {{0, "consistent read"}, {1, "write"}, {2, "write unchanged"}, {3, "resize"}}};

bool has_bit(Permissions::Set set, unsigned bit) { return (set >> bit & 1) != 0; }

Task<> place(File& file, std::uint64_t byte) {
  const LockRequest request{LockRequest::Mode::shared, byte, 1};
  const Result<> placed = co_await file.lock(request).result();
  if (!placed) co_await placed.error().with_context("Failed to lock byte " + std::to_string(byte));
}

// Ends with Errc::busy when another has a lock on the byte.
Task<> look(File& file, std::uint64_t byte, std::string lock) {
  const LockRequest request{LockRequest::Mode::test_exclusive, byte, 1};
  const Result<> free = co_await file.lock(request).result();
  if (free) co_return;
  if (free.error().code() != Errc::busy)
    co_await free.error().with_context("Failed to test byte " + std::to_string(byte));
  std::string message = "Failed to get " + lock + " lock: is another process using the image '";
  message += file.path() + "'?";
  co_await Error(Errc::busy, std::move(message), free.error().os_errno());
}

std::string quoted(std::string_view name) { return '"' + std::string(name) + '"'; }

Permissions::Set unshared_by(Permissions permissions) {
  return static_cast<Permissions::Set>(Permissions::all & ~permissions.shares);
}

Task<> place_all(File& file, Permissions permissions) {
  for (const Permission& p : permissions_known) {
    if (has_bit(permissions.uses, p.bit)) co_await place(file, used_byte + p.bit);
    if (has_bit(unshared_by(permissions), p.bit)) co_await place(file, unshared_byte + p.bit);
  }
}

Task<> look_for_others(File& file, Permissions permissions) {
  for (const Permission& p : permissions_known) {
    if (has_bit(permissions.uses, p.bit))
      co_await look(file, unshared_byte + p.bit, quoted(p.name));
    if (has_bit(unshared_by(permissions), p.bit))
      co_await look(file, used_byte + p.bit, "shared " + quoted(p.name));
  }
}

}  // namespace

Task<> lock_image(File& file, Permissions permissions) {
  const Instant until = file.reactor().now() + patience;
  for (;;) {
    co_await place_all(file, permissions);
    const Result<> free = co_await look_for_others(file, permissions).result();
    if (free) co_return;
    if (free.error().code() != Errc::busy || file.reactor().now() >= until) co_await free.error();
    co_await unlock_image(file);                 // it keeps nobody out meanwhile
    co_await file.reactor().sleep(pause);
  }
}

Task<> unlock_image(File& file) {
  for (const std::uint64_t byte : {used_byte, unshared_byte}) {
    const LockRequest request{LockRequest::Mode::unlock, byte, permissions_known.size()};
    co_await file.lock(request);
  }
}

Task<> check_no_store(File& file) {
  const LockRequest request{LockRequest::Mode::test_exclusive, 0, 1};
  const Result<> free = co_await file.lock(request).result();
  if (free) co_return;
  if (free.error().code() != Errc::busy) co_await free.error().with_context("Failed to test byte 0");
  co_await Error(Errc::busy, "'" + file.path() + "' is in use as the tracking store of a disk; choose another name",
                 free.error().os_errno());
}

Task<> lock_as_maker(File& file) {
  const LockRequest request{LockRequest::Mode::exclusive, maker_byte, 1};
  const Result<> taken = co_await file.lock(request).result();
  if (taken) co_return;
  if (taken.error().code() != Errc::busy) co_await taken.error().with_context("Failed to lock byte " + std::to_string(maker_byte));
  co_await Error(Errc::busy, "'" + file.path() + "' is being made by another program; let it end first", taken.error().os_errno());
}

Task<> move_lock(File& before, Permissions had, File& file, Permissions permissions) {
  co_await place_all(file, permissions);
  Result<> moved = co_await unlock_image(before).result();
  if (moved) moved = co_await look_for_others(file, permissions).result();
  if (moved) co_return;
  (void)co_await place_all(before, had).result();
  co_await moved.error();
}

}  // namespace tidemark
