// SimOptions: what a simulated machine is like.  Chances are in a million, per operation.
//
// The defaults are a healthy but unhelpful machine: nothing fails, transfers are sometimes short,
// streams arrive in pieces, completions come in another order than submissions.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/random.hpp"
#include "io/backend.hpp"

namespace tidemark {

struct SimOptions {
  // Virtual time an operation takes: uniform between the two, and ten times that once in 32.
  Duration disk_latency_min = std::chrono::microseconds(20);
  Duration disk_latency_max = std::chrono::microseconds(200);
  Duration net_latency_min = std::chrono::microseconds(10);
  Duration net_latency_max = std::chrono::microseconds(100);
  Duration turn_time = std::chrono::microseconds(1);      // each turn of a reactor takes that long

  unsigned inline_ppm = 500'000;            // a read, recv or send that could complete in try_now() does
  unsigned short_file_ppm = 20'000;         // a read or write moves only a part
  unsigned short_stream_ppm = 300'000;      // a recv or send does
  unsigned cancel_ppm = 500'000;            // cancel() still stops what is on its way
  unsigned read_error_ppm = 0;              // EIO
  unsigned write_error_ppm = 0;             // EIO; any part of the data may have been written
  unsigned sync_error_ppm = 0;              // EIO; see SimFile::fail_sync
  unsigned no_space_ppm = 0;                // ENOSPC of a write, allocate or truncate
  unsigned disconnect_ppm = 0;              // a recv or send breaks its connection instead

  std::uint64_t capacity = max_disk_size;   // bytes that regular files may occupy together
  std::uint32_t sector = 512;               // what a crash tears writes at; 512 to 4096
  std::uint32_t logical_block = 512;        // what direct I/O to regular files must be aligned to
  std::uint64_t socket_buffer = 64 * KiB;   // bytes on their way in one direction of a connection

  // What makes changes of names durable: `posix`, only sync_dir() of their directory; `ordered`, any
  // sync of a file or directory, for all earlier changes, as a journal with one order does.
  enum class Names : std::uint8_t { posix, ordered } names = Names::posix;

  // Varies what a crash leaves and nothing else: the run up to the crash stays the same.
  std::uint64_t crash_seed = 0;
  std::int64_t wall_clock_start_ns = 1'750'000'000'000'000'000;
};

// True with a chance of `ppm` in a million.  Draws nothing where there is no choice.
inline bool sim_chance(Prng& prng, unsigned ppm) noexcept {
  return ppm >= 1'000'000 || (ppm != 0 && prng.chance(ppm, 1'000'000));
}

}  // namespace tidemark
