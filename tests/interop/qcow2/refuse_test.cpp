// Images that are broken or beyond us: an error that names the reason, and nothing worse.
#include "tests/interop/qcow2/rig.hpp"

namespace tidemark::test {
namespace {

class Refusal : public ImageTest {
 protected:
  void make(const std::string& options = "", const std::string& size = "4M") {
    qemu_img("create -q -f qcow2 " + options + " a.qcow2 " + size);
  }
  void patch(std::uint64_t at, std::uint64_t value, std::size_t bytes) {
    std::byte big[8];
    store_be(big, value);
    std::FILE* file = std::fopen(path("a.qcow2").c_str(), "r+b");
    ASSERT_TRUE(file);
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    std::fwrite(big + 8 - bytes, 1, bytes, file);
    std::fclose(file);
  }
  std::uint64_t peek(std::uint64_t at) {
    std::byte big[8] = {};
    std::FILE* file = std::fopen(path("a.qcow2").c_str(), "rb");
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    EXPECT_EQ(std::fread(big, 1, 8, file), 8u);
    std::fclose(file);
    return load_be<std::uint64_t>(big);
  }
  std::string refusal(std::uint64_t at, std::uint64_t value, std::size_t bytes) {
    make();
    patch(at, value, bytes);
    return open_failure("a.qcow2");
  }
};

TEST_F(Refusal, NotQcow2) {
  write_file("a.qcow2", {});
  EXPECT_EQ(open_failure("a.qcow2"), "Image is not in qcow2 format");
  write_file("a.qcow2", std::vector<std::byte>(MiB));
  EXPECT_EQ(open_failure("a.qcow2"), "Image is not in qcow2 format");
}

TEST_F(Refusal, HeaderFields) {
  EXPECT_EQ(refusal(4, 4, 4), "Unsupported qcow2 version 4");
  EXPECT_EQ(refusal(20, 8, 4), "Unsupported cluster size: 2^8");
  EXPECT_EQ(refusal(20, 22, 4), "Unsupported cluster size: 2^22");
  EXPECT_EQ(refusal(8, 65537, 8), "Invalid backing file offset");
  EXPECT_EQ(refusal(24, ~std::uint64_t{0}, 8), "Image is too big (virtual size too large)");
  EXPECT_EQ(refusal(24, TiB, 8), "L1 table is too small");
  EXPECT_EQ(refusal(32, 9, 4), "Unsupported encryption method 9");
  EXPECT_EQ(refusal(32, 2, 4), "qcow2: encrypted images are not supported");
  EXPECT_EQ(refusal(36, 0xffffffff, 4), "Active L1 table too large");
  EXPECT_EQ(refusal(40, 1, 8), "Active L1 table offset invalid");
  EXPECT_EQ(refusal(48, 512, 8), "Reference count table offset invalid");
  EXPECT_EQ(refusal(56, 0x10000, 4), "Reference count table too large");
  EXPECT_EQ(refusal(56, 0, 4), "Image does not contain a reference count table");
  EXPECT_EQ(refusal(60, 0x20000, 4), "Snapshot table too large");
  EXPECT_EQ(refusal(96, 7, 4), "Reference count entry width too large; may not exceed 64 bits");
  EXPECT_EQ(refusal(100, 50, 4), "qcow2 header too short");
  EXPECT_EQ(refusal(100, 1 << 20, 4), "qcow2 header exceeds cluster size");
}

TEST_F(Refusal, Features) {
  EXPECT_EQ(refusal(72, 1 << 20, 8), "Unsupported qcow2 feature(s): Unknown incompatible feature: 0x100000");
  // The image brings the name of a feature it uses: the table's first row is the dirty bit.
  make();
  const std::uint64_t table = 112 + 8;
  ASSERT_EQ(peek(table) >> 16, 0x000064697274u) << "dirt";
  patch(table + 1, 30, 1);
  patch(72, 1 << 30, 8);
  EXPECT_EQ(open_failure("a.qcow2"), "Unsupported qcow2 feature(s): dirty bit");
  make("-o cluster_size=4k");
  patch(72, 16, 8);
  EXPECT_EQ(open_failure("a.qcow2"), "qcow2: clusters of 2^12 bytes are too small for extended L2 entries");
}

TEST_F(Refusal, CorruptImagesAreReadOnly) {
  Qcow2OpenOptions read_only;
  read_only.read_only = true;
  EXPECT_EQ(refusal(72, 2, 8), "qcow2: Image is corrupt; cannot be opened read/write");
  EXPECT_EQ(open_failure("a.qcow2", read_only), "no error");
}

TEST_F(Refusal, OverlappingTables) {
  make();
  patch(40, peek(48), 8);
  EXPECT_NE(open_failure("a.qcow2").find("overlaps other metadata"), std::string::npos);
  EXPECT_NE(refusal(48, 0, 8).find("overlaps the header"), std::string::npos);
  EXPECT_NE(refusal(48, TiB, 8).find("lies beyond the end of the file"), std::string::npos);
}

TEST_F(Refusal, AnL2TableThatCannotBe) {
  for (const std::uint64_t at : {std::uint64_t{1} << 40, std::uint64_t{0x200}}) {
    make();
    patch(peek(40), at | std::uint64_t{1} << 63, 8);
    Edge& image = open("a.qcow2");
    const std::vector<std::byte> data(512);
    AlignedBuffer buffer(512);
    EXPECT_NE(failure(image.read(0, buffer.bytes())).find("is corrupt: the L2 table"), std::string::npos);
    // From now on the image is marked, and nothing is written to it.
    EXPECT_NE(failure(image.write(MiB, buffer.bytes())).find("is corrupt"), std::string::npos);
    close_all();
    EXPECT_EQ(peek(72), 2u);
    EXPECT_EQ(open_failure("a.qcow2"), "qcow2: Image is corrupt; cannot be opened read/write");
  }
}

TEST_F(Refusal, AnL2EntryThatCannotBe) {
  const std::uint64_t copied = std::uint64_t{1} << 63;
  const std::uint64_t places[] = {512, std::uint64_t{1} << 45, 0x10000, 0x20000};
  for (const std::uint64_t place : places) {
    const std::uint64_t entry = copied | place;
    make();
    Edge& image = open("a.qcow2");
    write(image, 0, std::vector<std::byte>(128 * KiB, std::byte{1}));
    close_all();
    const std::uint64_t l2 = peek(peek(40)) & 0x00fffffffffffe00;
    patch(l2, entry, 8);
    Edge& broken = open("a.qcow2");
    AlignedBuffer buffer(512);
    Buffers(buffer.bytes()).fill_zero();
    EXPECT_NE(failure(broken.write(0, buffer.bytes())).find("is corrupt: the L2 entry"), std::string::npos);
    EXPECT_NE(failure(broken.write(64 * KiB, buffer.bytes())).find("is corrupt"), std::string::npos);
    EXPECT_EQ(read(broken, 64 * KiB, 1)[0], std::byte{1});     // what is whole can still be read
    close_all();
  }
}

TEST_F(Refusal, MetadataCountedFree) {
  make();
  // The refcount of the L1 table's cluster.
  const std::uint64_t block = peek(peek(48)), l1 = peek(40) / (64 * KiB);
  patch(block + 2 * l1, 0, 2);
  Edge& image = open("a.qcow2");
  AlignedBuffer buffer(512);
  Buffers(buffer.bytes()).fill_zero();
  EXPECT_NE(failure(image.write(0, buffer.bytes())).find("has refcount 0"), std::string::npos);
  close_all();
  EXPECT_EQ(peek(72), 2u);
}

TEST_F(Refusal, CompressedDataThatIsNot) {
  write_file("source.raw", std::vector<std::byte>(MiB, std::byte{1}));
  for (const char* type : {"zlib", "zstd"}) {
    qemu_img(std::string("convert -c -f raw -O qcow2 -o compression_type=") + type + " source.raw a.qcow2");
    const std::uint64_t l2 = peek(peek(40)) & 0x00fffffffffffe00;
    const std::uint64_t at = peek(l2) & ((std::uint64_t{1} << 54) - 1);
    patch(at, 0x8f8f8f8f8f8f8f8f, 8);
    Edge& image = open("a.qcow2");
    AlignedBuffer buffer(512);
    EXPECT_EQ(failure(image.read(1024, buffer.bytes())),
              "qcow2: the compressed cluster of guest offset 0 cannot be decompressed");
    EXPECT_EQ(read(image, 64 * KiB, 1)[0], std::byte{1});
    close_all();
    EXPECT_EQ(peek(72) & 2, 0u);        // data is lost, but the image's structure is sound
  }
}

TEST_F(Refusal, CreateOptions) {
  auto refused = [&](auto change) {
    Qcow2CreateOptions options;
    options.size = MiB;
    change(options);
    return failure(try_create(path("new.qcow2"), options));
  };
  EXPECT_EQ(refused([](auto& o) { o.cluster_size = 256; }),
            "Cluster size must be a power of two between 512 and 2048k");
  EXPECT_EQ(refused([](auto& o) { o.cluster_size = 4 * MiB; }),
            "Cluster size must be a power of two between 512 and 2048k");
  EXPECT_EQ(refused([](auto& o) { o.refcount_bits = 3; }),
            "Refcount width must be a power of two and may not exceed 64 bits");
  EXPECT_EQ(refused([](auto& o) { o.backing_format = "raw"; }),
            "Backing format cannot be used without backing file");
  EXPECT_EQ(refused([](auto& o) { o.backing_file = std::string(1024, 'x'); }), "Backing file name too long");
  EXPECT_EQ(refused([](auto& o) { o.backing_file = std::string(600, 'x'); o.cluster_size = 512; }),
            "Backing file name and format do not fit into the first cluster");
  EXPECT_EQ(refused([](auto& o) { o.size = 1; }), "Image size must be a multiple of 512 bytes");
  EXPECT_NE(refused([](auto& o) { o.size = TiB; o.cluster_size = 512; }).find("too large for file format"),
            std::string::npos);
}

// Such an entry would be an error of the image.
TEST_F(Refusal, CompressedDataBesideADataFile) {
  Qcow2CreateOptions options;
  options.size = MiB;
  options.data_file = "a.data";
  create("a.qcow2", options);
  Edge& image = open("a.qcow2");
  EXPECT_FALSE(image.node().driver().supports_compression());
  AlignedBuffer data(64 * KiB);
  Buffers(data.bytes()).fill_zero();
  EXPECT_NE(failure(image.write_compressed(0, data.bytes())).find("holds no compressed data"), std::string::npos);
  close_all();
  expect_clean("a.qcow2");
}

}  // namespace
}  // namespace tidemark::test
