// Recount: makes the refcounts of an image say how often each cluster is used, by all its tables.
//
// For an image whose dirty bit is set, and stays so until this is durable: counts are changed in place.  Memory is
// bounded by the caches.  Errors: Errc::corrupt for tables that cannot be followed.
#pragma once

#include "format/qcow2/cluster_map.hpp"
#include "format/qcow2/committer.hpp"

namespace tidemark::qcow2 {

class Recount {
 public:
  Recount(ImageFile& file, Refcounts& refcounts, Committer& committer, const Header& header)
      : file_(file), refcounts_(refcounts), committer_(committer), header_(header) {}

  Task<> run();

 private:
  Task<> use(Range host, const char* what);
  Task<> use_tree(HostOffset l1_at, std::uint64_t l1_entries);
  Task<> use_l2_table(HostOffset at);
  Task<> use_snapshots();
  Task<> use_bitmaps();
  Task<> use_bitmap(HostOffset table_at, std::uint64_t entries);
  Task<std::vector<std::uint64_t>> read_table(HostOffset at, std::uint64_t entries, const char* what);

  ImageFile& file_;
  Refcounts& refcounts_;
  Committer& committer_;
  const Header& header_;
};

}  // namespace tidemark::qcow2
