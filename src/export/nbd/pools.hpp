// NbdPools: a BufferPool for each thread on which clients are served, as long as there are any.
#pragma once

#include <map>

#include "export/nbd/buffer_pool.hpp"
#include "io/reactor.hpp"

namespace tidemark {

// Leases are taken and given back on the server's thread, the buffers on the thread they are for.
class NbdPools {
  struct Shared {
    explicit Shared(std::size_t kept_max) : buffers(kept_max) {}
    BufferPool buffers;
    std::size_t clients = 0;
  };

 public:
  explicit NbdPools(std::size_t kept_max) : kept_max_(kept_max) {}

  class [[nodiscard]] Lease {
   public:
    Lease(NbdPools& pools, Reactor& home)
        : pools_(pools), place_(pools.by_home_.try_emplace(&home, pools.kept_max_).first) {
      ++place_->second.clients;
    }
    Lease(const Lease&) = delete;
    ~Lease() {
      if (--place_->second.clients == 0) pools_.by_home_.erase(place_);
    }
    BufferPool& buffers() const noexcept { return place_->second.buffers; }

   private:
    NbdPools& pools_;
    std::map<Reactor*, Shared>::iterator place_;
  };

 private:
  const std::size_t kept_max_;
  std::map<Reactor*, Shared> by_home_;
};

}  // namespace tidemark
