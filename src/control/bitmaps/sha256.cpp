#include "control/bitmaps/sha256.hpp"

#include <openssl/evp.h>

#include <memory>

#include <fmt/format.h>

namespace tidemark {

Result<std::string> sha256_of_bitmap(const DirtyBitmap& bitmap) {
  if (bitmap.dense_bytes() > hashed_max)
    return Error(Errc::out_of_range, fmt::format("The bitmap's {} bits are too many to be hashed", bitmap.granules()));
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  TM_ASSERT(context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1);
  bitmap.for_each_words([&](auto words) { EVP_DigestUpdate(context.get(), words.data(), words.size_bytes()); });
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  std::string hex;
  for (unsigned i = 0; i < length; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

}  // namespace tidemark
