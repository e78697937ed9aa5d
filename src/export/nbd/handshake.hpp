// NbdHandshake: the option haggling with one client, up to the export it chose.
//
// Follows the protocol where the client does not: what may be answered is answered, what may not ends
// the connection.  Costs a client no more than `option_size_max` bytes of memory and the server a
// bounded number of answers; the time limit is the caller's.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "export/nbd/admission.hpp"
#include "export/nbd/nbd_export.hpp"
#include "io/socket.hpp"

namespace tidemark {

using NbdExportMap = std::map<std::string, std::shared_ptr<NbdExport>, std::less<>>;

// What the transmission phase is based on.
struct NbdAgreement {
  std::shared_ptr<NbdExport> disk;
  std::uint64_t edition = 0;                       // of it, that the client was told about
  nbd::Headers headers = nbd::Headers::simple;
  std::uint32_t block_size = 1;                    // that requests are aligned to
  std::vector<std::uint32_t> contexts;             // indices into disk->contexts()
};

class NbdHandshake {
 public:
  static constexpr std::uint32_t option_size_max = 256 * KiB;    // longer ones are refused unread

  NbdHandshake(Socket& socket, const NbdExportMap& exports, NbdAdmission& admission, CancelToken token)
      : socket_(socket), exports_(exports), admission_(admission), token_(token) {}

  // None when the client goes without having chosen, else it is admitted; fails where the protocol ends the
  // connection.
  Task<std::optional<NbdAgreement>> run();

 private:
  using Reply = nbd::OptionReply;

  Task<> greet();
  Task<> receive_option();
  Task<> answer();                                 // to option_, data_
  Task<> answer_choice();                          // of an export to be served
  Task<> wait_for_slot();
  Task<> send();
  void reply(Reply type, std::string_view text = {});
  std::shared_ptr<NbdExport> find(std::string_view name) const;
  std::shared_ptr<NbdExport> find_or_refuse(const std::string& name);

  Task<> export_name();
  void abort();
  void list();
  void info_or_go();
  void structured_reply();
  void extended_headers();
  void list_contexts();
  void set_contexts();
  void choose(std::shared_ptr<NbdExport> disk, std::uint32_t block_size);
  bool contexts_chosen_for(const NbdExport& disk) const noexcept;
  std::uint64_t options_max() const noexcept { return 64 + 16 * exports_.size(); }

  Socket& socket_;
  const NbdExportMap& exports_;
  NbdAdmission& admission_;
  CancelToken token_;
  bool no_zeroes_ = false;
  nbd::Headers headers_ = nbd::Headers::simple;
  std::shared_ptr<NbdExport> contexts_of_;         // the last set_meta_context
  std::vector<std::uint32_t> contexts_;

  nbd::Option option_{};                           // being answered
  nbd::Message data_;
  bool refused_ = false;                           // its data was too long to be kept
  nbd::Message out_;
  bool aborted_ = false;
  std::optional<NbdAgreement> agreement_;
};

}  // namespace tidemark
