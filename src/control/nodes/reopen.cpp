#include "control/nodes/reopen.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/graph/content_change.hpp"
#include "control/graph/size_change.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/node_opener.hpp"
#include "control/nodes/open_anew.hpp"
#include "control/nodes/read_only.hpp"
#include "format/qcow2/driver.hpp"
#include "format/raw/raw.hpp"

namespace tidemark {
namespace {

using schema::BlockdevOptions;

// What a node that is described inline takes from the one it is for.
struct Inherited {
  bool read_only = false, unmap = false, inlined = false;
  schema::BlockdevCacheOptions cache;
};

Error cannot_change(std::string_view option) {
  return Error(Errc::invalid_argument, fmt::format("Cannot change the option '{}'", option));
}

// Told apart by what follows from them, or looked at each for itself.
constexpr std::string_view changeable[] = {
    "node-name", "driver", "active", "discard", "cache", "read-only", "auto-read-only", "detect-zeroes", "file", "backing", "data-file",
    "image", "target",
    // raw
    "offset", "size",
    // qcow2
    "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "discard-no-unref", "overlap-check",
    "cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size", "cache-clean-interval"};

bool can_change(std::string_view option) { return std::find(std::begin(changeable), std::end(changeable), option) != std::end(changeable); }

// Names in options are of no consequence once a node has its children.
Result<> check_fixed(const Json& before, const Json& now) {
  for (const Json* side : {&before, &now})
    for (const auto& [name, value] : side->as_object()) {
      const Json* one = before.find(name);
      const Json* other = now.find(name);
      const bool same = one && other && *one == *other;
      if (!same && !can_change(name)) return cannot_change(name);
    }
  return {};
}

// Whether others are reopened by the same command: then how nodes stand on each other may not be what it is now.
enum class Alone : bool { no, yes };

// A child that stays; one that was described inline may have changed options.
Result<> check_child(BlockNode& node, Role role, const schema::BlockdevRef& wanted, Inherited own, Alone alone, UndoSteps& undo);
Task<> keep_child(BlockNode& node, Role role, const schema::BlockdevRef& wanted, Inherited own, UndoSteps& undo);

class Reopening {
 public:
  Reopening(BlockNode& node, BlockdevOptions options, Inherited parent, UndoSteps& undo)
      : node_(node), options_(std::move(options)), given_(schema::to_json(options_)), undo_(undo) {
    own_.read_only = options_.read_only.value_or(parent.read_only);
    own_.cache = options_.cache.value_or(parent.cache);
    own_.unmap = options_.discard ? *options_.discard == schema::BlockdevDiscardOptions::unmap : parent.inlined;
    own_.inlined = true;
  }

  // All that can be told without changing anything: an image that is only read for a moment is one that another may take meanwhile.
  Result<> check_all(Alone alone) const {
    if (auto ok = check(); !ok) return ok;
    for (const auto& [role, wanted] : kept_children())
      if (auto ok = check_child(node_, role, *wanted, own_, alone, undo_); !ok) return ok;
    if (const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&options_.branch)) {
      const bool moved = moves(raw->file);
      const auto ok = moved ? check_file(raw->file, alone) : check_child(node_, Role::file, raw->file, own_, alone, undo_);
      return ok ? check_window(*raw, moved ? Alone::no : alone) : ok;
    }
    const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&options_.branch);
    if (!qcow2) return {};
    if (auto ok = check_backing(qcow2->backing, alone); !ok) return ok;
    const auto wanted = to_open_options(*qcow2, own_.unmap);
    return wanted ? static_cast<Qcow2Driver&>(node_.driver()).check_change(*wanted) : Result<>(wanted.error());
  }

  // Itself, and what is described inline.
  void collect(std::vector<BlockNode*>& found) const;

  Task<> run() {
    co_await unwrap(check_all(Alone::yes));
    // Who uses it may have put something else there since the nodes were looked for.
    if (!node_.quiesced()) co_await Error(Errc::busy, fmt::format("Node '{}' has come to be used otherwise meanwhile", node_.name()));
    co_await open_anew(node_);
    // What is above is only read before what is below it, and written after it.
    if (own_.read_only) co_await change_mode();
    co_await change_children();
    if (!own_.read_only) co_await change_mode();
    // A bitmap that was only shown so far came back as it had been stored.
    if (other_backing_) co_await mark_what_is_below(node_);
    co_await change_driver();
    change_requests();
  }

 private:
  Result<> check() const {
    const Json& before = node_.options().given;
    if (before.is_null()) return Error(Errc::unsupported, fmt::format("Node '{}' is not one that was added", node_.name()));
    if (!node_.active())
      return Error(Errc::busy, fmt::format("Node '{}' is inactive; activate it with blockdev-set-active first", node_.name()));
    if (options_.active && *options_.active == false) return cannot_change("active");
    if (node_.driver().name() != schema::to_string(options_.driver)) return cannot_change("driver");
    if (auto ok = check_fixed(before, given_); !ok) return ok;
    if (own_.cache.direct != node_.options().cache_direct) return cannot_change("cache.direct");
    if (options_.tracking && before.find("tracking") == nullptr) return cannot_change("tracking");
    const bool unmaps = options_.detect_zeroes == schema::BlockdevDetectZeroesOptions::unmap;
    if (unmaps && !own_.unmap)
      return Error(Errc::invalid_argument, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    return {};
  }

  Task<> change_mode() {
    if (node_.read_only() == own_.read_only) co_return;
    if (follows_its_users(node_) && !own_.read_only && options_.auto_read_only.value_or(false)) co_return;
    co_await set_read_only(node_, own_.read_only);
    BlockNode& node = node_;
    undo_.push_back([&node, back = !own_.read_only]() -> Task<> { return set_read_only(node, back); });
  }

  // Those that no option exchanges for others.
  std::vector<std::pair<Role, const schema::BlockdevRef*>> kept_children() const {
    std::vector<std::pair<Role, const schema::BlockdevRef*>> kept;
    if (const auto* cbw = std::get_if<schema::BlockdevOptionsCbw>(&options_.branch))
      kept = {{Role::filtered, &cbw->file}, {Role::target, &cbw->target}};
    const Role shown = node_.driver().is_filter() ? Role::filtered : Role::file;
    if (const auto* plain = std::get_if<schema::BlockdevOptionsGenericFormat>(&options_.branch)) kept = {{shown, &plain->file}};
    if (const auto* throttle = std::get_if<schema::BlockdevOptionsThrottle>(&options_.branch)) kept = {{Role::filtered, &throttle->file}};
    if (const auto* copying = std::get_if<schema::BlockdevOptionsCor>(&options_.branch)) kept = {{Role::filtered, &copying->file}};
    if (const auto* blkdebug = std::get_if<schema::BlockdevOptionsBlkdebug>(&options_.branch)) kept = {{Role::filtered, &blkdebug->image}};
    if (const auto* fault = std::get_if<schema::BlockdevOptionsFault>(&options_.branch)) kept = {{Role::filtered, &fault->file}};
    if (const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&options_.branch)) {
      kept = {{Role::file, &qcow2->file}};
      if (qcow2->data_file) kept.emplace_back(Role::data_file, &*qcow2->data_file);
    }
    return kept;
  }

  Task<> change_children() {
    for (const auto& [role, wanted] : kept_children()) co_await keep_child(node_, role, *wanted, own_, undo_);
    if (const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&options_.branch)) co_await change_file(raw->file);
    if (const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&options_.branch)) co_await change_backing(qcow2->backing);
  }

  // A window can be moved to another node.
  bool moves(const schema::BlockdevRef& file) const {
    const auto* name = std::get_if<std::string>(&file.value);
    return name && *name != node_.child(Role::file)->node().name();
  }

  Result<> check_file(const schema::BlockdevRef& wanted, Alone alone) const {
    const Result<BlockNode*> file = find(std::get<std::string>(wanted.value));
    if (!file) return file.error();
    if (!node_.bitmaps().empty() || node_.tracking())
      return Error(Errc::busy, fmt::format("Cannot change the 'file' of node '{}', which has bitmaps", node_.name()));
    if (auto ok = check_no_bitmaps_above(node_); !ok || alone == Alone::no) return ok;
    const BlockNode& before = node_.child(Role::file)->node();
    if (!before.options().monitor_owned && before.parents().size() == 1)
      return Error(Errc::unsupported,
                   fmt::format("Cannot change the 'file' of node '{}': nobody else would have the present one", node_.name()));
    return check_no_cycle(**file, "file");
  }

  Task<> change_file(const schema::BlockdevRef& wanted) {
    if (!moves(wanted)) co_return co_await keep_child(node_, Role::file, wanted, own_, undo_);
    co_await unwrap(check_file(wanted, Alone::yes));     // what others have become since
    BlockNode* file = co_await unwrap(find(std::get<std::string>(wanted.value)));
    Edge& edge = *node_.child(Role::file);
    BlockNode& before = edge.node();
    if (!own_.read_only) co_await begin_to_write(*file);
    if (file->read_only() && !own_.read_only) co_await Error(Errc::permission, "Block node is read-only", EROFS);
    co_await mark_above(node_);
    co_await edge.flush();                               // what it has written to the present one, which it leaves
    co_await mark_above(node_);                          // what was cleared meanwhile
    co_await unwrap(edge.retarget(*file));
    undo_.push_back([&edge, &before, &node = node_]() -> Task<> {
      co_await mark_above(node);
      (void)edge.retarget(before);
    });
  }

  Inherited for_backing() const {
    Inherited below;
    below.read_only = below.inlined = true;
    below.cache = own_.cache;
    return below;
  }

  Result<> check_backing(const std::optional<schema::BlockdevRefOrNull>& wanted, Alone alone) const {
    BlockNode* before = node_.backing();
    if (!wanted) {
      const bool own = before ? node_.options().backing_found : static_cast<Qcow2Driver&>(node_.driver()).backing_file().empty();
      if (own) return {};
      return Error(Errc::invalid_argument, fmt::format("backing is missing for '{}'", node_.name()));
    }
    if (const auto* inlined = std::get_if<schema::Box<BlockdevOptions>>(&wanted->value)) {
      if (!before) return cannot_change("backing.driver");
      schema::BlockdevRef reference;
      reference.value = *inlined;
      return check_child(node_, Role::backing, reference, for_backing(), alone, undo_);
    }
    BlockNode* backing = nullptr;
    if (const auto* name = std::get_if<std::string>(&wanted->value)) {
      const Result<BlockNode*> found = find(*name);
      if (!found) return found.error();
      backing = *found;
    }
    if (backing == before || alone == Alone::no) return {};
    if (backing)
      if (auto ok = check_no_cycle(*backing, "backing"); !ok) return ok;
    if (before && node_.options().backing_found)
      return Error(Errc::unsupported, fmt::format("Cannot change the backing node of '{}', which the image itself names", node_.name()));
    if (before && !before->options().monitor_owned && before->parents().size() == 1)
      return Error(Errc::unsupported,
                   fmt::format("Cannot change the backing node of '{}': nobody else would have the present one", node_.name()));
    return {};
  }

  Task<> change_backing(const std::optional<schema::BlockdevRefOrNull>& wanted) {
    co_await unwrap(check_backing(wanted, Alone::yes));  // what others have become since
    if (!wanted) co_return;
    if (const auto* inlined = std::get_if<schema::Box<BlockdevOptions>>(&wanted->value)) {
      schema::BlockdevRef reference;
      reference.value = *inlined;
      co_return co_await keep_child(node_, Role::backing, reference, for_backing(), undo_);
    }
    BlockNode* before = node_.backing();
    BlockNode* backing = nullptr;
    if (const auto* name = std::get_if<std::string>(&wanted->value)) backing = co_await unwrap(find(*name));
    if (backing == before) co_return;
    co_await mark_what_is_below(node_);
    co_await unwrap(node_.graph().set_backing(node_, backing));
    other_backing_ = true;
    BlockNode& node = node_;
    undo_.push_back([&node, before]() -> Task<> {
      co_await mark_what_is_below(node);
      (void)node.graph().set_backing(node, before);
    });
  }

  Task<> change_driver() {
    if (const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&options_.branch)) co_await change_window(*raw);
    if (const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&options_.branch)) co_await change_image(*qcow2);
    Json before = node_.options().given;
    const bool fixed = node_.options().read_only_fixed;
    BlockNode& node = node_;
    node.set_given(given_, options_.read_only.has_value());
    undo_.push_back([&node, before, fixed]() -> Task<> {
      node.set_given(before, fixed);
      co_return;
    });
  }

  Result<> check_window(const schema::BlockdevOptionsRaw& raw, Alone alone) const {
    const auto& driver = static_cast<const RawDriver&>(node_.driver());
    const Result<RawOptions> wanted = to_raw_options(raw);
    if (!wanted) return wanted.error();
    if (wanted->offset == driver.options().offset && wanted->size == driver.options().size) return {};
    if (!node_.bitmaps().empty() || node_.tracking())
      return Error(Errc::busy, fmt::format("Cannot change what node '{}', which has bitmaps, shows of its file", node_.name()));
    if (auto ok = check_no_bitmaps_above(node_); !ok || alone == Alone::no) return ok;
    return driver.check_show(*wanted);
  }

  Task<> change_window(const schema::BlockdevOptionsRaw& raw) {
    auto& driver = static_cast<RawDriver&>(node_.driver());
    const RawOptions wanted = co_await unwrap(to_raw_options(raw));
    const RawOptions before = driver.options();
    if (wanted.offset == before.offset && wanted.size == before.size) co_return;
    co_await mark_above(node_);
    co_await unwrap(driver.show(wanted));
    undo_.push_back([&driver, before, &node = node_]() -> Task<> {
      co_await mark_above(node);
      (void)driver.show(before);
    });
  }

  Task<> change_image(const schema::BlockdevOptionsQcow2& given) {
    auto& driver = static_cast<Qcow2Driver&>(node_.driver());
    const Qcow2OpenOptions wanted = co_await unwrap(to_open_options(given, own_.unmap));
    const Qcow2OpenOptions before = driver.options();
    co_await driver.change_options(wanted);
    undo_.push_back([&driver, before]() -> Task<> { return driver.change_options(before); });
  }

  void change_requests() {
    const NodeOptions& before = node_.options();
    BlockNode& node = node_;
    undo_.push_back([&node, discard = before.discard, zeroes = before.detect_zeroes, no_flush = before.cache_no_flush]() -> Task<> {
      node.set_request_options(discard, zeroes, no_flush);
      co_return;
    });
    node.set_request_options(own_.unmap, to_detect_zeroes(options_.detect_zeroes), own_.cache.no_flush);
  }

  Result<BlockNode*> find(const std::string& name) const {
    if (BlockNode* found = node_.graph().pin(name)) return found;
    return Error(Errc::not_found, fmt::format("Cannot find device='' nor node-name='{}'", name));
  }
  Result<> check_no_cycle(BlockNode& child, std::string_view role) const {
    if (!node_.graph().stands_on(child, node_)) return {};
    return Error(Errc::invalid_argument,
                 fmt::format("Making '{}' a {} child of '{}' would create a cycle", child.name(), role, node_.name()));
  }

  BlockNode& node_;
  const BlockdevOptions options_;
  const Json given_;
  Inherited own_;
  UndoSteps& undo_;
  bool other_backing_ = false;
};

Result<> check_child(BlockNode& node, Role role, const schema::BlockdevRef& wanted, Inherited own, Alone alone, UndoSteps& undo) {
  const Edge* edge = node.child(role);
  if (!edge) return cannot_change(to_string(role));
  const std::string_view option = edge->name();
  BlockNode& child = edge->node();
  if (const auto* name = std::get_if<std::string>(&wanted.value)) {
    if (*name == child.name()) return {};
    if (!node.graph().find(*name)) return Error(Errc::not_found, fmt::format("Cannot find device='' nor node-name='{}'", *name));
    return cannot_change(option);
  }
  if (child.options().monitor_owned) return cannot_change(fmt::format("{}.driver", option));
  const Reopening inner(child, *std::get<schema::Box<BlockdevOptions>>(wanted.value), own, undo);
  return inner.check_all(alone);
}

Task<> keep_child(BlockNode& node, Role role, const schema::BlockdevRef& wanted, Inherited own, UndoSteps& undo) {
  co_await unwrap(check_child(node, role, wanted, own, Alone::yes, undo));
  if (std::holds_alternative<std::string>(wanted.value)) co_return;
  Reopening inner(node.child(role)->node(), *std::get<schema::Box<BlockdevOptions>>(wanted.value), own, undo);
  co_await inner.run();
}

void Reopening::collect(std::vector<BlockNode*>& found) const {
  (void)node_.graph().pin(node_.name());
  found.push_back(&node_);
  auto children = kept_children();
  if (const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&options_.branch)) children.emplace_back(Role::file, &raw->file);
  schema::BlockdevRef backing;
  const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&options_.branch);
  const auto* below = qcow2 && qcow2->backing ? std::get_if<schema::Box<BlockdevOptions>>(&qcow2->backing->value) : nullptr;
  if (below) {
    backing.value = *below;
    children.emplace_back(Role::backing, &backing);
  }
  for (const auto& [role, wanted] : children) {
    const auto* inlined = std::get_if<schema::Box<BlockdevOptions>>(&wanted->value);
    const Edge* edge = node_.child(role);
    if (inlined && edge && !edge->node().options().monitor_owned) Reopening(edge->node(), **inlined, own_, undo_).collect(found);
  }
}

}  // namespace

std::vector<BlockNode*> reopened_with(BlockNode& node, const BlockdevOptions& options) {
  UndoSteps none;
  std::vector<BlockNode*> found;
  Reopening(node, options, Inherited(), none).collect(found);
  return found;
}

Result<> check_reopen(BlockNode& node, const BlockdevOptions& options) {
  UndoSteps none;
  return Reopening(node, options, Inherited(), none).check_all(Alone::no);
}

Task<> reopen(BlockNode& node, BlockdevOptions options, UndoSteps& undo) {
  const std::size_t before = undo.size();
  Inherited nothing;
  Reopening reopening(node, std::move(options), nothing, undo);
  const Result<> done = co_await reopening.run().result();
  if (done) co_return;
  co_await take_back(undo, before);
  co_await done.error();
}

Task<> take_back(UndoSteps& undo, std::size_t down_to) {
  while (undo.size() > down_to) {
    const std::function<Task<>()> step = std::move(undo.back());
    undo.pop_back();
    (void)co_await step().result();
  }
}

}  // namespace tidemark
