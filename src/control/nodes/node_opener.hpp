// NodeOpener: makes nodes of what blockdev-add and --blockdev describe, children first.
//
// It is the gate for names inside images: a backing file that nobody described is looked for beside
// the image, as a plain file of the format that the image says or its content shows, and only read.  What was opened for a
// node that then fails is closed again.
#pragma once

#include <map>

#include "block/graph.hpp"
#include "filter/throttle_group.hpp"
#include "schema/node.hpp"

namespace tidemark {

class Qcow2Driver;
struct Qcow2OpenOptions;
struct RawOptions;

using ThrottleGroups = std::map<std::string, std::shared_ptr<ThrottleGroup>>;

// From the schema's types to the drivers' own.
DetectZeroes to_detect_zeroes(schema::BlockdevDetectZeroesOptions option);
Result<Qcow2OpenOptions> to_open_options(const schema::BlockdevOptionsQcow2& given, bool unmap);
Result<RawOptions> to_raw_options(const schema::BlockdevOptionsRaw& given);
// Of an option that QEMU has as a signed number, and that must not be negative.
Result<std::uint64_t> to_unsigned(const char* name, std::int64_t given);

class NodeOpener {
 public:
  // What becomes of the bitmaps that qcow2 images hold: they are the nodes', do not count while an image is written, or do, for what
  // it reads as will not change.  Those of other images are in stores alone, and followed always: nothing in the image says that it
  // was written.
  enum class ImageBitmaps : std::uint8_t { followed, left_alone, true_still };
  explicit NodeOpener(Graph& graph, ImageBitmaps bitmaps = ImageBitmaps::followed) : graph_(graph), image_bitmaps_(bitmaps) {}
  // The throttle groups that there are; without them nodes can be in none.
  void use_groups(ThrottleGroups groups) { groups_ = std::move(groups); }

  // As blockdev-add does: the node belongs to the monitor until blockdev-del.
  Task<BlockNode*> add(schema::BlockdevOptions options);

  // The node that a reference means, opened now if it is described inline.  The caller attaches an
  // edge, or releases it again (Graph::release).
  Task<BlockNode*> resolve(schema::BlockdevRef reference);

 private:
  static constexpr unsigned chain_depth_max = 200;

  // An image whose backing file is being opened, and the one it is below.
  struct ChainLink {
    std::string file;
    const ChainLink* above = nullptr;
  };
  // What a node that is described inline takes from its parent.
  struct Inherited {
    bool read_only = false, auto_read_only = false, force_share = false, active = true;
    bool writes_when_active = false;           // it is read-only because it is not active
    bool unmap = false;
    bool inlined = false;
    schema::BlockdevCacheOptions cache;
    const ChainLink* chain = nullptr;
    unsigned depth = 0;                        // of backing files that nobody described
    bool guessed = false;                      // its format was told by its content, not by who names it
    std::vector<std::string>* opened = nullptr;    // names of nodes, to be closed if this fails
  };

  Task<BlockNode*> clean_up_on_error(Task<BlockNode*> opening, const std::vector<std::string>& opened);
  Task<BlockNode*> resolve(schema::BlockdevRef reference, Inherited parent);
  Task<BlockNode*> open(schema::BlockdevOptions options, Inherited parent);
  Task<std::unique_ptr<Edge>> attach(schema::BlockdevRef reference, Role role, Inherited own);

  using Driver = std::unique_ptr<BlockDriver>;
  Task<Driver> open_driver(schema::BlockdevOptions& options, Inherited& own);
  Task<Driver> open_file_or_device(const schema::BlockdevOptions& options, Inherited& own);
  Task<Driver> open_nbd(const schema::BlockdevOptionsNbd& given, Inherited& own);
  Task<Driver> open_volatile(const schema::BlockdevOptions& options);
  Task<Driver> open_raw(schema::BlockdevOptionsRaw& raw, const Inherited& own);
  Task<Driver> open_qcow2(schema::BlockdevOptionsQcow2& qcow2, const Inherited& own);
  Task<Driver> open_copy_before_write(schema::BlockdevOptionsCbw& filter, const Inherited& own);
  Task<Driver> open_snapshot_access(schema::BlockdevOptionsGenericFormat& access, const Inherited& own);
  Task<Driver> open_copy_on_read(schema::BlockdevOptionsCor& filter, const Inherited& own);
  Task<Driver> open_compress(schema::BlockdevOptionsGenericFormat& filter, const Inherited& own);
  Task<Driver> open_throttle(schema::BlockdevOptionsThrottle& filter, const Inherited& own);
  Task<Driver> open_blkdebug(schema::BlockdevOptionsBlkdebug& filter, const Inherited& own);
  Task<Driver> open_fault(schema::BlockdevOptionsFault& filter, const Inherited& own);

  Task<> open_others(schema::BlockdevOptionsQcow2& qcow2, Qcow2Driver& driver, std::string image, Inherited own);
  Task<std::unique_ptr<Edge>> open_data_file(std::optional<schema::BlockdevRef>& given, const Qcow2Driver& driver,
                                             std::string image, Inherited own);
  Task<std::unique_ptr<Edge>> open_backing(std::optional<schema::BlockdevRefOrNull>& given, const Qcow2Driver& driver,
                                           std::string image, Inherited own);
  Task<bool> looks_like_qcow2(schema::BlockdevOptions described, Inherited own);

  Graph& graph_;
  const ImageBitmaps image_bitmaps_;
  ThrottleGroups groups_;
};

}  // namespace tidemark
