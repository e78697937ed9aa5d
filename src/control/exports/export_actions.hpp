// block-export-add as part of a transaction: clients find the export when all has taken effect, and not before.
#pragma once

#include "control/exports/exports.hpp"
#include "control/graph/transaction_action.hpp"

namespace tidemark {

std::unique_ptr<TransactionAction> make_export_action(Exports& exports, schema::BlockExportOptions arguments);

}  // namespace tidemark
