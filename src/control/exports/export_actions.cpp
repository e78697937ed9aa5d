#include "control/exports/export_actions.hpp"

namespace tidemark {
namespace {

class ExportAdd final : public TransactionAction {
 public:
  ExportAdd(Exports& exports, schema::BlockExportOptions arguments) : exports_(exports), arguments_(std::move(arguments)) {}

  std::vector<std::string> nodes() const override { return {arguments_.node_name}; }
  Task<> gather() override { return exports_.gather(arguments_); }
  Task<> prepare() override {
    co_await exports_.prepare(arguments_);
    added_ = true;
  }
  Task<> begin() override {
    exports_.show(arguments_.id);
    co_return;
  }
  Task<> abort() override {
    if (added_) co_await exports_.undo(arguments_.id);
  }

 private:
  Exports& exports_;
  const schema::BlockExportOptions arguments_;
  bool added_ = false;
};

}  // namespace

std::unique_ptr<TransactionAction> make_export_action(Exports& exports, schema::BlockExportOptions arguments) {
  return std::make_unique<ExportAdd>(exports, std::move(arguments));
}

}  // namespace tidemark
