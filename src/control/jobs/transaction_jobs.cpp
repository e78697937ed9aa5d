#include "control/jobs/transaction_jobs.hpp"

namespace tidemark {
namespace {

class MirrorAction final : public JobAction {
 public:
  MirrorAction(Homes& homes, JobManager& jobs, ChainAccess& access, schema::BlockdevMirror arguments)
      : JobAction(homes, jobs), access_(access), arguments_(std::move(arguments)) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> gather() override {
    std::vector<std::string> names{arguments_.device, arguments_.target};
    (void)co_await homes_.gather(std::move(names)).result();
  }
  Task<> prepare() override { job_ = co_await make_mirror(homes_, jobs_, access_, arguments_); }

 private:
  ChainAccess& access_;
  const schema::BlockdevMirror arguments_;
};

}  // namespace

std::unique_ptr<TransactionAction> make_mirror_action(Homes& homes, JobManager& jobs, ChainAccess& access,
                                                      schema::BlockdevMirror arguments) {
  return std::make_unique<MirrorAction>(homes, jobs, access, std::move(arguments));
}

}  // namespace tidemark
