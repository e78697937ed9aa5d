// Any text as a point's manifest: an error, or a manifest that says the same when it is written and read again.
// The text's own digest is made to be right, so that what it covers is looked at.
#include <cstdlib>

#include "backup/manifest.hpp"

namespace {

using namespace tidemark;

void read(std::string_view text) {
  const Result<PointManifest> manifest = parse_manifest(text);
  if (!manifest) return;
  const std::string written = to_text(*manifest);
  const Result<PointManifest> again = parse_manifest(written);
  if (!again || to_text(*again) != written) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read(text);
  Result<Json> json = parse_json(text);
  if (!json || !json->is_object()) return 0;
  Json sealed = Json::object();
  for (const auto& [key, value] : json->as_object())
    if (key != "digest") sealed.set(key, value);
  sealed.set("digest", "xxh3-128:" + Digest::of(as_bytes(to_text(sealed))).to_hex());
  read(to_text(sealed));
  return 0;
}
