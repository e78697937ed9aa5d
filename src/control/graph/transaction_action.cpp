#include "control/graph/transaction_action.hpp"

#include "control/graph/drain_set.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

Task<> make_ready(const TransactionActions& actions, std::size_t& begun) {
  for (const auto& action : actions) {
    ++begun;
    co_await action->prepare();
  }
  for (const auto& action : actions) co_await action->make_durable();
  for (const auto& action : actions) co_await action->overwrite();
}

Task<> carry_out_at_rest(const TransactionActions& actions) {
  std::size_t begun = 0;
  const Result<> ready = co_await make_ready(actions, begun).result();
  if (!ready) {
    while (begun != 0) co_await actions[--begun]->abort();
    co_await ready.error();
  }
  for (const auto& action : actions) co_await action->commit();
  for (const auto& action : actions) co_await action->begin();
}

}  // namespace

Task<> carry_out(Homes& homes, TransactionActions actions) {
  for (const auto& action : actions) co_await action->gather();
  OpenedAhead opened;
  for (const auto& action : actions) co_await action->ahead(opened);
  std::vector<std::string> names;
  for (const auto& action : actions)
    for (std::string& name : action->nodes()) names.push_back(std::move(name));
  DrainSet drained(homes);
  auto work = [&]() -> Task<> {
    if (homes.main().graph.keeps(Rule::drain_together)) co_await drained.add(std::move(names));
    co_await carry_out_at_rest(actions);
  };
  auto release = [&drained]() -> Task<> { return drained.release(); };
  const Result<> done = co_await finally(work(), release).result();
  for (auto action = actions.rbegin(); action != actions.rend(); ++action) co_await (*action)->clean();
  co_await unwrap(done);
}

}  // namespace tidemark
