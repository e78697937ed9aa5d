// The actions of a transaction on bitmaps.
#pragma once

#include <set>

#include "control/graph/transaction_action.hpp"
#include "job/job_manager.hpp"
#include "schema/transaction.hpp"

namespace tidemark {

// Nodes whose bitmaps have changed since they were saved, of one transaction: each is saved once.
using UnsavedNodes = std::set<std::string>;

bool is_about_bitmap(const schema::TransactionAction& action) noexcept;
// With a group it is confirmed or undone when the jobs of the group have ended.
std::unique_ptr<TransactionAction> make_bitmap_action(Homes& homes, schema::TransactionAction action,
                                                      std::shared_ptr<UnsavedNodes> unsaved,
                                                      std::shared_ptr<JobTransaction> group);

}  // namespace tidemark
