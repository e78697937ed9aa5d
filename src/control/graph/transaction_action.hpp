// TransactionAction: one part of a transaction, and how several become one.
//
// Each step is taken by all of them, in order, before the next: gather(), ahead(), the nodes are brought to rest, prepare(),
// make_durable(), overwrite(), commit(), begin(), the nodes are let go, clean().  When one fails before commit(), abort() of those
// whose prepare() was begun, the last first.  All on the main thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "control/graph/homes.hpp"

namespace tidemark {

// Overlays that are open before their disk is at rest, by the names that they will have: until then nobody finds them by these.
struct OpenedAhead {
  struct Node {
    Place* place;
    BlockNode* node;
  };
  std::map<std::string, Node> overlays;
};

class TransactionAction {
 public:
  TransactionAction() = default;
  TransactionAction(const TransactionAction&) = delete;
  virtual ~TransactionAction() = default;

  // What is at rest while the transaction is carried out.
  virtual std::vector<std::string> nodes() const { return {}; }
  // Brings to one thread what must be on one, as long as it can move; what is not there fails in prepare().
  virtual Task<> gather() { co_return; }
  // While guests go on, what takes its time: they do not wait for a file system that is not theirs.  What fails here, or cannot be
  // done before other actions, is done again by prepare(), or told.
  virtual Task<> ahead(OpenedAhead&) { co_return; }
  // All that can fail, and can be undone.
  virtual Task<> prepare() = 0;
  virtual Task<> make_durable() { co_return; }
  // What cannot be undone: nobody else can fail any more, but for others who overwrite.
  virtual Task<> overwrite() { co_return; }
  // Takes effect; cannot fail.
  virtual Task<> commit() { co_return; }
  // All have taken effect, and the nodes are still at rest; cannot fail.
  virtual Task<> begin() { co_return; }
  // prepare() was begun, and may have failed; cannot fail.
  virtual Task<> abort() { co_return; }
  // Guests go on, whatever has become of it, the last action first: what ahead() and prepare() have made, and nobody uses, goes;
  // cannot fail.
  virtual Task<> clean() { co_return; }
};

using TransactionActions = std::vector<std::unique_ptr<TransactionAction>>;

// All of them, or nothing.
Task<> carry_out(Homes& homes, TransactionActions actions);

}  // namespace tidemark
