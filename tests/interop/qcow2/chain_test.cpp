// Long backing chains whose layers are written to, and exchanged, while others stand on them: each layer reads as a model
// of it does.
#include "tests/interop/qcow2/rig.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t cluster = 64 * KiB, unit = 4 * KiB, clusters = 12;
constexpr std::size_t layers = 9, units_each = cluster / unit;

// Of each unit the number of the write that made it; 0: zeroes.
struct Layer {
  std::array<std::optional<std::array<std::uint64_t, units_each>>, clusters> own;
  std::size_t below = 0;                 // the bottom one is its own
};

class Chain : public ImageTest, public ::testing::WithParamInterface<std::uint64_t> {
 protected:
  Chain() {
    for (std::size_t i = 0; i < layers; ++i) {
      add(i);
      model_[i].below = i == 0 ? 0 : i - 1;
    }
  }

  std::array<std::uint64_t, units_each> view(std::size_t layer, std::size_t at) const {
    const Layer& l = model_[layer];
    if (l.own[at]) return *l.own[at];
    return layer == 0 ? std::array<std::uint64_t, units_each>{} : view(l.below, at);
  }

  void write(std::size_t layer, std::size_t at, std::size_t first, std::size_t count) {
    if (!model_[layer].own[at]) model_[layer].own[at] = view(layer, at);
    ++stamp_;
    for (std::size_t i = first; i < first + count; ++i) (*model_[layer].own[at])[i] = stamp_;
    AlignedBuffer data(count * unit);
    for (std::size_t byte = 0; byte < data.size(); byte += 8) store_be(data.data() + byte, stamp_);
    run(edges_[layer]->write(at * cluster + first * unit, data.bytes()));
  }

  void zero(std::size_t layer, std::size_t at, bool discard) {
    model_[layer].own[at].emplace();
    const Range range{at * cluster, cluster};
    run(discard ? edges_[layer]->discard(range) : edges_[layer]->write_zeroes(range));
  }

  void stand_on(std::size_t layer, std::size_t below) {
    ASSERT_TRUE(graph_->set_backing(edges_[layer]->node(), &edges_[below]->node()).ok());
    model_[layer].below = below;
  }

  void check(std::size_t layer, std::size_t at, std::size_t first, std::size_t count) {
    AlignedBuffer data(count * unit);
    run(edges_[layer]->read(at * cluster + first * unit, data.bytes()));
    const auto wanted = view(layer, at);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t byte = 0; byte < unit; byte += unit - 8)
        ASSERT_EQ(load_be<std::uint64_t>(data.data() + i * unit + byte), wanted[first + i])
            << "layer " << layer << ", cluster " << at << ", unit " << first + i;
  }

  std::vector<Edge*> edges_;
  std::array<Layer, layers> model_;
  std::uint64_t stamp_ = 0;

 private:
  void add(std::size_t i) {
    const std::string name = "l" + std::to_string(i);
    Qcow2CreateOptions options;
    options.size = clusters * cluster;
    options.cluster_size = cluster;
    create(name, options);
    edges_.push_back(run(open_layer(name, i == 0 ? nullptr : &edges_[i - 1]->node())));
  }
  Task<Edge*> open_layer(std::string name, BlockNode* below) {
    BlockNode* storage = co_await open_file_node(path(name), false);
    auto file = co_await unwrap(Edge::attach(*storage, Role::file, file_permissions(false), "test"));
    const Qcow2OpenOptions options;
    auto driver = co_await Qcow2Driver::open(std::move(file), options);
    const Permissions none;
    if (below) driver->set_backing(co_await unwrap(Edge::attach(*below, Role::backing, none, "test")));
    NodeOptions node;
    BlockNode* added = co_await graph_->add(node, std::move(driver));
    roots_.push_back(co_await unwrap(Edge::attach(*added, Role::root, file_permissions(false), "test")));
    co_return roots_.back().get();
  }
};

TEST_P(Chain, EachLayerReadsAsItsModelWhateverIsDoneToOthers) {
  Prng random(GetParam());
  for (int step = 0; step < 3000 && !HasFailure(); ++step) {
    const std::size_t at = random.below(clusters), layer = random.below(layers);
    const std::size_t first = random.below(units_each), count = 1 + random.below(std::min<std::size_t>(units_each - first, 4));
    const std::uint64_t what = random.below(100);
    if (what < 94) check(random.chance(3, 4) ? layers - 1 : layer, at, first, count);
    else if (what < 96) write(layer, at, first, count);
    else if (what < 97) zero(layer, at, random.chance(1, 2));
    else if (what < 98 && layer >= 1) stand_on(layer, random.below(layer));
    else if (what < 99 && layer >= 1) stand_on(layer, layer - 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, Chain, ::testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace tidemark::test
