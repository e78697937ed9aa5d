// Another program that has its turn on an image: it knows qcow2's bitmaps, and nothing of tracking stores.  What QEMU does.
#include "format/qcow2/driver.hpp"
#include "storage/file.hpp"
#include "task/finally.hpp"
#include "tests/sim/engine_run.hpp"

namespace tidemark::sim {
namespace {

constexpr std::uint64_t piece = 64 * KiB;        // whole clusters: what is below does not matter

class Visit {
 public:
  Visit(Reactor& reactor, MachineDisk& disk, Stamp stamp, bool dies) : graph_(reactor), disk_(disk), stamp_(stamp), dies_(dies) {}

  Task<> run() {
    auto close = [this]() -> Task<> { return graph_.close_all(); };
    co_await finally(use(), close);
  }

 private:
  Task<> use() {
    co_await open();
    std::vector<qcow2::BitmapEntry> entries = co_await image_->bitmap_entries();
    for (const qcow2::BitmapEntry& entry : entries)
      if (entry.usable()) co_await take(entry);
    co_await image_->use_bitmaps();
    co_await write();
    if (!dies_) co_await store(std::move(entries));
  }

  Task<> open() {
    FileOptions options;
    options.filename = disk_.plan.path;
    auto storage = co_await open_file(graph_.reactor(), std::move(options));
    NodeOptions named;
    BlockNode* file = co_await graph_.add(named, std::move(storage));
    const Permissions writes{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};
    auto edge = co_await unwrap(Edge::attach(*file, Role::file, writes, "an image"));
    Qcow2OpenOptions open;
    open.keeps_content = true;                   // its bitmaps are looked after
    auto driver = co_await Qcow2Driver::open(std::move(edge), open);
    image_ = driver.get();
    node_ = co_await graph_.add(named, std::move(driver));
  }

  Task<> take(const qcow2::BitmapEntry& entry) {
    auto bitmap = std::make_unique<NodeBitmap>(entry.name, node_->size(), std::uint32_t{1} << entry.granularity_bits);
    bitmap->bits() = co_await image_->load_bitmap(entry);
    bitmap->set_enabled(entry.enabled());
    node_->bitmaps().insert(std::move(bitmap));
  }

  Task<> write() {
    const std::uint64_t pieces = std::min(node_->size(), disk_.content.size()) / piece;
    if (pieces == 0) co_return;
    const Range range{stamp_ % pieces * piece, piece};
    const Permissions writes{Permissions::consistent_read | Permissions::write, Permissions::all};
    auto edge = co_await unwrap(Edge::attach(*node_, Role::root, writes, "a visitor"));
    AlignedBuffer content(piece);
    fill_with(content.bytes(), stamp_);
    const std::uint64_t number = disk_.content.begin(range, stamp_);
    co_await edge->write(range.offset, content.bytes());
    co_await edge->flush();
    disk_.content.end(number, true);
  }

  Task<> store(std::vector<qcow2::BitmapEntry> entries) {
    std::vector<Qcow2Bitmap> bitmaps;
    for (qcow2::BitmapEntry& entry : entries) {
      Qcow2Bitmap stored{std::move(entry), std::nullopt};
      if (const NodeBitmap* bitmap = node_->bitmaps().find(stored.entry.name)) stored.bits = bitmap->bits().clone();
      else stored.entry.flags |= qcow2::BitmapEntry::in_use_flag;
      bitmaps.push_back(std::move(stored));
    }
    co_await image_->store_bitmaps(std::move(bitmaps));
  }

  Graph graph_;
  MachineDisk& disk_;
  const Stamp stamp_;
  const bool dies_;
  Qcow2Driver* image_ = nullptr;
  BlockNode* node_ = nullptr;
};

}  // namespace

Result<> visit_images(SimWorld& world, Machine& machine, bool closed, Prng& random) {
  for (MachineDisk& disk : machine.disks) {
    if (disk.plan.format != "qcow2" || random.chance(1, 3)) continue;
    const bool dies = random.chance(1, 3);
    const bool ended = std::exchange(disk.tracking_ended, true);     // a crash may come in the middle
    SimProcess process(world, "visitor");
    Visit visit(process.reactor(), disk, ++machine.last_stamp, dies);
    const Result<> visited = process.run(visit.run());
    if (!visited) return visited;
    if (closed && !dies) disk.tracking_ended = ended;
  }
  return {};
}

}  // namespace tidemark::sim
