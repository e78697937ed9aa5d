// NbdExport: a block node as NBD clients see it: a name, permissions, what may be asked of it.
//
// Made by NbdServer::add_export(); shared by the server and the clients connected to it; the server
// closes it after it was removed and the last of those has gone.  Marks the bitmaps it offers busy for
// as long.  Two threads, which may be one: home() is the node's, where it is made and where disk() and
// the content of bitmaps may be used; everything else is the server's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/node.hpp"
#include "export/nbd/loss_debt.hpp"
#include "export/nbd/meta_context.hpp"
#include "nbd/option.hpp"

namespace tidemark {

struct NbdExportOptions {
  struct BitmapName {
    std::string node;                  // empty: the exported node, or the first below that has it
    std::string name;
  };
  std::string id;                      // of the block export, for messages; the name when empty
  std::string name;                    // what clients ask for; "" is the default export
  std::string description;
  bool writable = false;
  bool writethrough = false;           // every write is durable when it is answered
  bool allocation_depth = false;       // offers qemu:allocation-depth
  bool multi_conn = true;              // clients may use several connections at once
  std::vector<BitmapName> bitmaps;     // offered as qemu:dirty-bitmap:NAME
  bool allow_inactive = false;         // of the node: clients only read then
  bool hidden = false;                 // no client finds it before show()
  std::function<void()> on_removed;    // called when it is closed
};

class NbdExport {
 public:
  static Result<std::shared_ptr<NbdExport>> create(BlockNode& node, Reactor& server,
                                                   NbdExportOptions options);
  NbdExport(const NbdExport&) = delete;
  ~NbdExport();                        // close() was awaited (asserted)

  const NbdExportOptions& options() const noexcept { return options_; }
  const std::string& name() const noexcept { return options_.name; }
  bool writable() const noexcept { return options_.writable; }
  std::uint64_t size() const noexcept { return size_; }
  Reactor& home() const noexcept { return home_; }
  Edge& disk() const noexcept { return *disk_; }
  LossDebt& loss_debt() noexcept { return loss_debt_; }         // home()'s
  bool has_disk() const noexcept { return disk_ != nullptr; }   // until it is closed
  const std::vector<MetaContext>& contexts() const noexcept { return contexts_; }

  // Transmission flags (nbd::export_flag) for a client that negotiated `headers`.
  std::uint16_t flags(nbd::Headers headers, bool contexts_chosen) const noexcept;
  // What a client that asks for block sizes is held to.
  const nbd::BlockSizes& block_sizes() const noexcept { return sizes_; }

  // Every connection in the transmission phase holds one of these.
  Gate::Holder enter() { return clients_.enter(); }
  std::uint64_t clients() const noexcept { return clients_.count(); }
  bool hidden() const noexcept { return options_.hidden; }
  void show() noexcept { options_.hidden = false; }
  // No client finds it before show(), and one that has been told of it and is not connected yet is turned away.
  void hide() noexcept {
    options_.hidden = true;
    ++edition_;
  }
  std::uint64_t edition() const noexcept { return edition_; }
  bool shows_bitmaps() const noexcept { return !bitmaps_.empty(); }
  bool shutting_down() const noexcept { return shutting_down_; }
  void shut_down() noexcept { shutting_down_ = true; }

  // The node, on whose thread this is called, is about to be inactive, where that is allowed, or is active again.
  Result<> set_active(bool active);

  // What the disk is has changed while it was hidden and had no client; called on the node's thread.
  void renew() noexcept;

  // Waits for the last client, lets go of bitmaps and node, and tells on_removed.
  Task<> close();

 private:
  NbdExport(std::unique_ptr<Edge> disk, Reactor& server, NbdExportOptions options,
            std::vector<std::shared_ptr<NodeBitmap>> bitmaps);
  Task<> let_go();

  Reactor& server_;
  Reactor& home_;                      // does not change: what an export uses does not move
  NbdExportOptions options_;
  std::unique_ptr<Edge> disk_;
  std::uint64_t size_;                 // does not change while there are clients: resize is not shared
  nbd::BlockSizes sizes_;              // of when it was made or renewed: clients know them for good
  std::vector<std::shared_ptr<NodeBitmap>> bitmaps_;     // as they were when their node went, if it has
  std::vector<MetaContext> contexts_;  // a context's id is its index
  Gate clients_;
  LossDebt loss_debt_;
  std::uint64_t edition_ = 0;
  bool shutting_down_ = false;
};

}  // namespace tidemark
