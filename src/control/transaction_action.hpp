// TransactionAction: one part of a transaction, and how several become one.
//
// Each step is taken by all of them, in order, before the next: gather(), the nodes are brought to rest, prepare(),
// make_durable(), overwrite(), commit(), begin(), the nodes are let go.  When one fails before commit(), abort() of those whose
// prepare() was begun, the last first.  All on the main thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "control/homes.hpp"

namespace tidemark {

class TransactionAction {
 public:
  TransactionAction() = default;
  TransactionAction(const TransactionAction&) = delete;
  virtual ~TransactionAction() = default;

  // What is at rest while the transaction is carried out.
  virtual std::vector<std::string> nodes() const { return {}; }
  // Brings to one thread what must be on one, as long as it can move; what is not there fails in prepare().
  virtual Task<> gather() { co_return; }
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
};

using TransactionActions = std::vector<std::unique_ptr<TransactionAction>>;

// All of them, or nothing.
Task<> carry_out(Homes& homes, TransactionActions actions);

}  // namespace tidemark
