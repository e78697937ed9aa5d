// Every decoder of the NBD codec on arbitrary bytes: none reads outside its input, and what it
// accepts, encoded again, is the same bytes.
#include <algorithm>

#include "nbd/option.hpp"
#include "nbd/transmission.hpp"

using namespace tidemark;
using namespace tidemark::nbd;

namespace {

void same(const std::vector<std::byte>& encoded, Bytes input) {
  TM_ASSERT(std::equal(encoded.begin(), encoded.end(), input.begin(), input.end()));
}

void fuzz_options(unsigned which, Bytes input) {
  std::vector<std::byte> out;
  switch (which) {
    case 0: (void)decode_greeting(input); break;
    case 1:
      if (auto r = decode_option_header(input)) encode_option_header(out, *r), same(out, input);
      break;
    case 2:
      if (auto r = decode_info_request(input)) encode_info_request(out, *r), same(out, input);
      break;
    case 3:
      if (auto r = decode_context_request(input)) encode_context_request(out, *r), same(out, input);
      break;
    case 4:
      if (auto r = decode_option_reply_header(input))
        encode_option_reply_header(out, *r), same(out, input);
      break;
    case 5:
      if (auto r = decode_export_name_reply(input))
        encode_export_name_reply(out, *r, true), same(out, input);
      break;
    case 6: (void)decode_server_reply(input); break;
    case 7: (void)decode_info_reply(input); break;
    default: (void)decode_context_reply(input); break;
  }
}

void fuzz_transmission(unsigned which, Bytes input) {
  std::vector<std::byte> out;
  std::byte header[reply_header_size_max] = {};
  std::copy_n(input.begin(), std::min(input.size(), sizeof header), header);
  const auto headers = static_cast<Headers>(which % 3);
  switch (which / 3) {
    case 0:
      if (auto r = decode_request(header, headers)) {
        std::byte again[reply_header_size_max];
        encode_request(again, headers, *r);
        TM_ASSERT(std::equal(again, again + request_size(headers), header));
      }
      break;
    case 1:
      if (reply_header_size(load_be<std::uint32_t>(header), headers)) (void)decode_reply_header(header);
      break;
    case 2:
      if (auto r = decode_status_query(input)) encode_status_query(out, *r), same(out, input);
      break;
    case 3:
      if (auto r = decode_status_chunk(input, headers)) {
        out.resize(status_payload_size(r->extents.size(), headers));
        encode_status_chunk(out.data(), headers, r->context, r->extents);
        same(out, input);
      }
      break;
    case 4: (void)decode_offset_hole(input); break;
    case 5: (void)decode_error(input, Chunk::error); break;
    default: (void)decode_error(input, Chunk::error_offset); break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const Bytes input(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  const unsigned which = data[0];
  if (which < 9) fuzz_options(which, input);
  else fuzz_transmission((which - 9) % 21, input);
  return 0;
}
