// A disk that exports show and nobody is connected to: it can become another one, and who comes next sees that.
//
// Invariant: from close() to open() no client comes in, and one that was told of the disk as it was before is turned away.
#pragma once

#include "control/exports/exports.hpp"

namespace tidemark {

class IdleDisk {
 public:
  IdleDisk(Homes& homes, Exports& exports) : homes_(homes), exports_(exports) {}

  // Errc::busy when anybody but exports without clients, which show no bitmaps, and filters uses the image.
  Task<> find(Place& place, BlockNode& image);
  Result<> close();                                // Errc::busy when a client has come meanwhile
  // While closed: exports tell of the disk as it is now.
  Task<> renew();
  void open() noexcept;

 private:
  using Served = std::vector<std::shared_ptr<NbdExport>>;
  Result<> check_no_clients() const;

  Homes& homes_;
  Exports& exports_;
  Place* place_ = nullptr;
  Served served_;
  bool closed_ = false;
};

}  // namespace tidemark
