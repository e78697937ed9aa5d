// Preserver: what a commit does so that the images which stand on its base go on reading as they do, those that it takes out
// of the chain and those beside it.
//
//   on     What they do not hold themselves where the base is about to be written is pulled into them, and made durable, before
//          the first write to the base.  From then on they do not read from the base where it changes.
//   full   They stand on the base no more: what it holds is pulled into them, made durable, and their headers name what is
//          below it, before it is written.  The one that is in the chain does so in the end, when the chain is about to leave it:
//          until then the job can be done again.  Where guests write to the chain's top it is given all that it reads.
//          When it is the top itself the base changes only where it does not show, and it comes last.
//
// Only those right above the base need anything: who stands on them sees what they show.  What is pulled is what they read there
// already, so that no bitmap is marked, and a job that was cut off has changed nothing that anybody can see.
//
// Invariant: their edges to the base are indifferent only while nobody but the filters here writes to them, and from the
// first write to the base on all that is written in it is in them, durably.
#pragma once

#include <memory>

#include "block/graph.hpp"
#include "block/status.hpp"
#include "filter/copy_on_read.hpp"
#include "job/chain/chain_access.hpp"
#include "job/pieces.hpp"

namespace tidemark {

enum class Preserve : std::uint8_t { off, on, full };

struct PreserverOptions {
  BlockNode* top = nullptr;              // what is above the base from here down is about to be written to it
  BlockNode* base = nullptr;
  bool full = false;
  std::uint64_t end = 0;                 // up to here the base may be written, in a commit that guests take no part in
  bool active = false;                   // guests write to the top
  bool top_stays = false;                // ... and go on with it, so that it needs nothing
  bool mask_protocol = false;            // of names in headers, see backing_name()
  ChainAccess* access = nullptr;
  std::string user;                      // as in Edge::attach()
};

// On the thread of its nodes.
class Preserver final {
 public:
  explicit Preserver(PreserverOptions options);
  ~Preserver();

  // Before anything is written; on error clean() is to be called.
  Task<> attach();
  // From here on the base can be written without a conflict with them, and again not.
  Result<> let_base_change();
  void hold_base() noexcept;

  bool uses(const BlockNode& node) const noexcept;
  JobProgress progress() const noexcept;
  std::uint64_t end() const noexcept { return options_.end; }

  // All that has to be done before the base is written.
  Task<> run(JobContext& context, OnError policy);
  // And before guests go over to it.
  Task<> run_for_top(JobContext& context, OnError policy);

  // Guests are about to leave the top, which is at rest.
  Task<> let_go_of_top();
  // Of the one that is in the chain, with `full`: its header names what is below the base, and the base again.
  Task<> rename();
  Task<> rename_back();
  // It has been taken out of the chain.
  Task<> part();

  // Lets go of them.  Nobody writes to the base.
  Task<> clean();

 private:
  class Child;
  BlockNode& base() const noexcept { return skip_filters(*options_.base); }
  Child* chained() const noexcept;
  Task<PieceSource::Found> written(Range wanted);
  Task<PieceSource::Found> held_by_base(Range wanted);
  Task<PieceSource::Found> needed(const Child& child, Range wanted);

  const PreserverOptions options_;
  std::vector<std::unique_ptr<Child>> children_;         // the one in the chain is the last
};

}  // namespace tidemark
