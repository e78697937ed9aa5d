// Sums files: the checksums of the granules that one point's image of one disk holds itself
// (docs/formats/backup-directory.md).  Written and read in order; memory is bound by one run.
#pragma once

#include <optional>
#include <vector>

#include "backup/digest.hpp"
#include "io/file.hpp"

namespace tidemark {

struct SumsRun {
  enum class Kind : std::uint32_t { data = 0, zero = 1 };
  std::uint64_t first = 0;             // granule
  std::uint64_t count = 0;             // granules; > 0
  Kind kind = Kind::data;
  std::vector<Digest> digests;         // data: `count` of them; zero: none

  std::uint64_t end() const noexcept { return first + count; }
  static constexpr std::uint64_t data_count_max = 65536;
};

class SumsWriter {
 public:
  static Task<SumsWriter> create(Reactor& reactor, std::string path, std::uint64_t disk_size,
                                 std::uint32_t granularity);
  // The same in a file that is empty, if there is one.
  static Task<SumsWriter> fill(Reactor& reactor, std::string path, std::uint64_t disk_size, std::uint32_t granularity);
  // Granules in rising order.
  Task<> add_data(std::uint64_t granule, Digest digest);
  Task<> add_zero(std::uint64_t first, std::uint64_t count);
  // Ends the file and makes it durable; returns the digest of all of it.
  Task<Digest> finish();
  Task<> close() { return file_.close(); }

 private:
  SumsWriter(File file, std::uint64_t disk_size, std::uint32_t granularity);
  Task<> end_run();
  Task<> append(Bytes bytes);
  Task<> write_out();

  File file_;
  std::vector<std::byte> pending_;
  std::uint64_t written_ = 0;
  DigestStream digest_;
  SumsRun run_;
};

class SumsReader {
 public:
  // Checks the file against `digest`, its manifest's word if there is one yet, then stands before its first run.
  static Task<SumsReader> open(Reactor& reactor, std::string path, std::uint64_t disk_size,
                               std::uint32_t granularity, std::optional<Digest> digest);
  Digest digest() const noexcept { return digest_; }     // of the file
  // The run at hand; count 0 after the last.
  const SumsRun& run() const noexcept { return run_; }
  Task<> next();
  Task<> close() { return file_.close(); }

 private:
  Task<> begin(std::uint64_t disk_size, std::uint32_t granularity, std::optional<Digest> digest);
  Task<Digest> digest_of_file();
  Task<> read_exactly(MutableBytes into);
  Error broken(std::string_view why) const;

  File file_;
  std::uint64_t at_ = 0, size_ = 0, granules_ = 0;
  SumsRun run_;
  Digest digest_;
};

}  // namespace tidemark
