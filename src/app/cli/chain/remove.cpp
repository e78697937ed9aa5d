// Layers are taken out of a chain.
#include <algorithm>

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/chain/others.hpp"
#include "app/cli/chain/steps.hpp"
#include "app/cli/fields.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

using Way = ChainRemoveOptions::Way;

std::size_t index_of(const Json& layers, const std::string& node) {
  for (std::size_t i = 0; i < items(layers).size(); ++i)
    if (text(items(layers)[i], "node-name") == node) return i;
  return 0;
}

std::vector<std::size_t> gone_in(const Json& layers, const Json& step) {
  std::vector<std::size_t> gone;
  for (const Json& node : items(*step.find("layers")))
    if (node.is_string()) gone.push_back(index_of(layers, node.as_string()));
  return gone;
}

// The steps of the plan, or one for all layers that lie together.
std::vector<Removal> steps_of(const Json& cost, Way way) {
  const Json& layers = *cost.find("layers");
  std::vector<Removal> steps;
  std::vector<std::size_t> all;
  for (const Json& step : items(*cost.find("steps"))) {
    const std::vector<std::size_t> gone = gone_in(layers, step);
    if (gone.empty()) continue;
    all.insert(all.end(), gone.begin(), gone.end());
    if (way == Way::cheapest) steps.push_back({text(step, "action") == "commit", gone.front(), gone.back()});
  }
  if (way == Way::cheapest) return steps;
  std::sort(all.begin(), all.end());
  for (const std::size_t layer : all) {
    if (!steps.empty() && steps.back().last + 1 == layer) steps.back().last = layer;
    else steps.push_back({way == Way::commit, layer, layer});
  }
  return steps;
}

// Those between the topmost that goes and the base read from the base, too.
Task<bool> others_may_see(const Context& context, QmpClient* client, const Json& layers, Removal step) {
  for (std::size_t layer = step.first + 1; step.commit && layer <= step.into(); ++layer) {
    const bool others = co_await others_may_stand_on(context, client, layers, layer);
    if (others) co_return true;
  }
  co_return false;
}

// With all steps that it touches, directly or not.
Removal pulled_run(const std::vector<Removal>& steps, Removal run) {
  run.commit = false;
  for (std::size_t grown = 1; grown != 0;) {
    grown = 0;
    for (const Removal& step : steps) {
      if (step.last + 1 < run.first || step.first > run.last + 1) continue;
      if (step.first >= run.first && step.last <= run.last) continue;
      run.first = std::min(run.first, step.first);
      run.last = std::max(run.last, step.last);
      ++grown;
    }
  }
  return run;
}

// Of those that it has open itself a daemon lets none change.
Error others_may_change(const std::string& top, bool live) {
  const char* way_out = live ? " --preserve-removed full' does it and keeps those that the daemon has open as they are"
                             : "' does it all the same";
  return Error(Errc::busy, fmt::format("other images may stand on what {} would be committed to, and would change; 'tidemark chain "
                                       "commit{}", top, way_out));
}

// What other images may read from is not written to: what lies together with it is pulled.
Task<std::vector<Removal>> spare_others(const Context& context, QmpClient* client, const Json& layers, std::vector<Removal> steps) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const bool others = co_await others_may_see(context, client, layers, steps[i]);
    if (!others) continue;
    const Removal run = pulled_run(steps, steps[i]);
    if (run.first == 0)
      co_await others_may_change(text(items(layers)[0], "layer"), client != nullptr);
    std::erase_if(steps, [&run](const Removal& step) { return step.first >= run.first && step.last <= run.last; });
    steps.insert(steps.begin(), run);
    i = 0;                                         // it writes to none
  }
  co_return std::move(steps);
}

Result<> check(const std::vector<Removal>& steps, std::size_t layers) {
  for (const Removal& step : steps) {
    if (!step.commit && step.first == 0) return Error(Errc::invalid_argument, "nothing is above the top: it cannot be pulled");
    if (step.commit && step.last + 1 == layers)
      return Error(Errc::invalid_argument, "nothing is below the last layer: it cannot be committed");
  }
  return {};
}

std::string describe(const Json& layers, const Removal& step) {
  const auto name = [&](std::size_t layer) { return text(items(layers)[layer], "layer"); };
  const std::string gone = step.first == step.last ? name(step.first) : fmt::format("{} to {}", name(step.first), name(step.last));
  return fmt::format("{} {} into {}", step.commit ? "committed" : "pulled", gone, name(step.into()));
}

Json to_json(const Json& layers, const Removal& step) {
  Json gone = Json::array();
  for (std::size_t i = step.first; i <= step.last; ++i) gone.push_back(text(items(layers)[i], "filename"));
  return Json::object({{"action", step.commit ? "commit" : "pull"},
                       {"layers", std::move(gone)},
                       {"into", text(items(layers)[step.into()], "filename")}});
}

// What is left when the first step was carried out: of the chain, and to be done, by the numbers that layers have then.
void take_out_first(Json::Array& layers, std::vector<Removal>& steps) {
  const Removal done = steps.front();
  const std::size_t gone = done.last - done.first + 1;
  const auto begin = layers.begin() + static_cast<std::ptrdiff_t>(done.first);
  layers.erase(begin, begin + static_cast<std::ptrdiff_t>(gone));
  steps.erase(steps.begin());
  for (Removal& step : steps) {
    if (step.first < done.first) continue;
    step.first -= gone;
    step.last -= gone;
  }
}

// `done` tells programs of the steps that are, also where one fails.
Task<> remove_layers(const Context& context, QmpClient* client, Json layers, std::vector<Removal> steps, const ChainRemoveOptions& options,
                     Json& done) {
  if (options.way == Way::cheapest && options.preserve_removed == "off")
    steps = co_await spare_others(context, client, layers, std::move(steps));
  co_await check_steps(context, client, layers, steps);
  for (; !steps.empty(); take_out_first(layers.as_array(), steps)) {
    const Removal step = steps.front();
    const LeftNode left = co_await carry_out(context, client, layers, step, options.speed);
    done.push_back(to_json(layers, step));
    if (context.json) continue;
    print_line(describe(layers, step));
    if (left.there) print_line(fmt::format("node '{}', which was the top, is still there", text(items(layers)[0], "node-name")));
  }
}

Task<> remove_live(const Context& context, Json layers, std::vector<Removal> steps, const ChainRemoveOptions& options, Json& done) {
  QmpClient client = co_await context.connect();
  client.see_through();                  // a job that was begun is cancelled in order
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(remove_layers(context, &client, std::move(layers), std::move(steps), options, done), close);
}

}  // namespace

Task<Exit> chain_remove(const Context& context, ChainRemoveOptions options) {
  if (options.speed != 0 && !options.chain.live) co_await Error(Errc::invalid_argument, "--speed is for a daemon's jobs: give --qmp, too");
  if (options.preserve_removed != "off" && !options.chain.live)
    co_await Error(Errc::invalid_argument, "--preserve-removed is for a daemon's jobs: give --qmp, too");
  const Json cost = co_await look_at_chain(context, options.chain, options.layers);
  const Json& layers = *cost.find("layers");
  std::vector<Removal> steps = steps_of(cost, options.way);
  for (Removal& step : steps) step.preserve_removed = options.preserve_removed;
  co_await unwrap(check(steps, items(layers).size()));
  Json done = Json::array();
  Result<> ended;
  if (options.chain.live) ended = co_await remove_live(context, layers, std::move(steps), options, done).result();
  else ended = co_await remove_layers(context, nullptr, layers, std::move(steps), options, done).result();
  if (context.json && (ended || !items(done).empty())) print_json(done);
  co_await unwrap(ended);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
