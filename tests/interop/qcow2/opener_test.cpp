// blockdev-add and blockdev-create of qcow2 images, with what QEMU made and what images themselves say.
#include "control/nodes/images_made.hpp"
#include "control/nodes/node_opener.hpp"
#include "schema/keyval.hpp"
#include "tests/interop/qcow2/rig.hpp"

namespace tidemark::test {
namespace {

class Opener : public ImageTest {
 protected:
  // Paths in the words are this test's: @ stands for its directory.
  std::string here(std::string text) const {
    for (std::size_t at; (at = text.find('@')) != std::string::npos;) text.replace(at, 1, directory_);
    return text;
  }
  Task<BlockNode*> add(std::string words) {
    auto options = co_await unwrap(schema::from_option<schema::BlockdevOptions>(words));
    NodeOpener opener(*graph_);
    co_return co_await opener.add(std::move(options));
  }
  std::string refusal(const std::string& words) {
    const std::string why = failure(add(here(words)));
    close_all();
    return why;
  }
  Edge& opened(const std::string& words) {
    BlockNode* node = run(add(here(words)));
    const Permissions reads{Permissions::consistent_read, Permissions::all};
    roots_.push_back(*Edge::attach(*node, Role::root, reads, "test"));
    return *roots_.back();
  }
  void make(const std::string& words) {
    auto options = schema::from_option<schema::BlockdevCreateOptions>(here(words));
    ASSERT_TRUE(options.ok()) << options.error().message();
    run(create_image(*graph_, *std::move(options)));
  }
  // The image that `plain` opens, new, with a backing file that nobody looks at.
  void stand_on(const std::string& name, const std::string& format) {
    Qcow2CreateOptions options;
    options.size = MiB;
    options.backing_file = name;
    options.backing_format = format;
    create("a.qcow2", options);
  }
  static constexpr const char* plain = "driver=qcow2,node-name=disk,file.driver=file,file.filename=@/a.qcow2";
};

TEST_F(Opener, TakesEveryOption) {
  qemu_img("create -q -f qcow2 a.qcow2 4M");
  Edge& image = opened(std::string(plain) +
                       ",lazy-refcounts=on,pass-discard-request=off,pass-discard-snapshot=off,pass-discard-other=on,"
                       "discard-no-unref=on,overlap-check=all,cache-size=1048576,l2-cache-size=524288,"
                       "l2-cache-entry-size=65536,cache-clean-interval=5");
  EXPECT_EQ(image.size(), 4 * MiB);
  close_all();
  opened(std::string(plain) + ",overlap-check.template=none,overlap-check.active-l2=on");
  close_all();
  EXPECT_NE(refusal(std::string(plain) + ",cache-size=1,l2-cache-size=2").find("l2-cache-size may not exceed cache-size"),
            std::string::npos);
  EXPECT_NE(refusal(std::string(plain) + ",l2-cache-entry-size=3").find("L2 cache entry size must be"), std::string::npos);
  EXPECT_NE(refusal(std::string(plain) + ",cache-clean-interval=-1").find("Cache clean interval too big"), std::string::npos);
  EXPECT_NE(refusal(std::string(plain) + ",data-file.driver=file,data-file.filename=@/x").find("'data-file' can only be set"),
            std::string::npos);
}

TEST_F(Opener, MakesEveryKindOfImage) {
  for (const char* options : {"extended-l2=on", "preallocation=metadata", "preallocation=full,lazy-refcounts=on",
                              "version=v2", "refcount-bits=1,cluster-size=512"}) {
    write_file("a.qcow2", {});
    make(std::string("driver=qcow2,size=4M,file.driver=file,file.filename=@/a.qcow2,") + options);
    expect_clean("a.qcow2");
    EXPECT_EQ(opened(plain).size(), 4 * MiB);
    close_all();
  }
  write_file("a.qcow2", {});
  write_file("a.data", {});
  make("driver=qcow2,size=4M,file.driver=file,file.filename=@/a.qcow2,data-file.driver=file,data-file.filename=@/a.data,"
       "data-file-raw=on");
  expect_clean("a.qcow2");
  EXPECT_EQ(opened(plain).size(), 4 * MiB);                  // its data file lies beside it
  EXPECT_TRUE(graph_->find("disk")->child(Role::data_file));
  close_all();
  EXPECT_EQ(opened(std::string(plain) + ",data-file.driver=file,data-file.filename=@/a.data").size(), 4 * MiB);
}

// An image does not say which file of the host its guest may write to.
TEST_F(Opener, ADataFileElsewhereMustBeGiven) {
  std::filesystem::create_directory(path("sub"));
  qemu_img("create -q -f qcow2 -o data_file=sub/b.data a.qcow2 1M");
  EXPECT_NE(refusal(plain).find("does not lie beside it; give the node with 'data-file'"), std::string::npos);
  EXPECT_EQ(opened(std::string(plain) + ",data-file.driver=file,data-file.filename=@/sub/b.data").size(), MiB);
}

TEST_F(Opener, BackingFilesByEveryName) {
  write_file("base.raw", std::vector<std::byte>(MiB, std::byte{5}));
  qemu_img("create -q -f qcow2 -b base.raw -F raw mid.qcow2");
  const std::string at = '"' + path("mid.qcow2") + '"', base = '"' + path("base.raw") + '"';
  for (const std::string& name : {
           std::string("mid.qcow2"), path("mid.qcow2"), std::string("file:mid.qcow2"),
           R"(json:{"driver":"qcow2","file":{"driver":"file","filename":)" + at + "}}",
           R"(json:{"driver":"qcow2","file.driver":"file","file.filename":)" + at + "}",
           R"(json:{"file.filename":)" + at + "}",
           R"(json:{"file":{"filename":)" + at + "}}",
           R"(json:{"driver":"raw","file.filename":)" + at + "}",
           R"(json:{"driver":"qcow2","file.filename":)" + at + R"(,"backing.driver":"raw","backing.file.filename":)" + base + "}",
           R"(json:{"driver":"qcow2","file.filename":)" + at + R"(,"backing":{"driver":"raw","file":{"filename":)" + base + "}}}",
           R"(json:{"driver":"raw","file.driver":"qcow2","file.file.driver":"file","file.file.filename":)" + at + "}"}) {
    const bool says_itself = name.find("file.file.") != std::string::npos;
    stand_on(name, says_itself ? "" : "qcow2");
    Edge& image = opened(plain);
    EXPECT_EQ(read(image, 0, 1)[0], std::byte{5}) << name;
    close_all();
    if (!says_itself) expect_content("a.qcow2", std::vector<std::byte>(MiB, std::byte{5}));
  }
}

TEST_F(Opener, BackingFilesThatStandOnOthersThanTheySay) {
  write_file("base.raw", std::vector<std::byte>(MiB, std::byte{5}));
  write_file("other.raw", std::vector<std::byte>(MiB, std::byte{6}));
  qemu_img("create -q -f qcow2 -b base.raw -F raw mid.qcow2");
  const std::string mid = R"(json:{"driver":"qcow2","file.filename":")" + path("mid.qcow2") + R"(","backing":)";
  const std::pair<std::string, std::byte> all[] = {
      {R"({"driver":"raw","file":{"driver":"file","read-only":false,"filename":")" + path("other.raw") + "\"}}", std::byte{6}},
      {"null", std::byte{0}}};
  for (const auto& [backing, shown] : all) {
    stand_on(mid + backing + "}", "qcow2");
    Edge& image = opened(plain);
    EXPECT_EQ(read(image, 0, 1)[0], shown) << backing;
    for (BlockNode* at = image.node().backing(); at; at = at->backing()) EXPECT_TRUE(at->child(Role::file)->node().read_only());
    close_all();
    expect_content("a.qcow2", std::vector<std::byte>(MiB, shown));
  }
}

TEST_F(Opener, BackingFilesWhoseFormatIsNotSaid) {
  write_file("base.raw", std::vector<std::byte>(MiB, std::byte{5}));
  stand_on("base.raw", "");
  EXPECT_EQ(read(opened(plain), 0, 1)[0], std::byte{5});
  close_all();
  qemu_img("convert -f raw -O qcow2 base.raw base.qcow2");
  stand_on("base.qcow2", "");
  EXPECT_EQ(read(opened(plain), 0, 1)[0], std::byte{5});
  close_all();
  EXPECT_EQ(graph_->nodes().size(), 0u);
  // What a guest may have written to its raw disk opens no file of the host.
  qemu_img("create -q -f qcow2 -b base.raw -F raw written.raw");
  stand_on("written.raw", "");
  EXPECT_NE(refusal(plain).find("the files that it names are not opened"), std::string::npos);
  stand_on("written.raw", "raw");
  EXPECT_EQ(read(opened(plain), 0, 1)[0], std::byte{'Q'});
}

TEST_F(Opener, BackingFilesThatCannotBe) {
  const auto refused = [this](const std::string& name, const std::string& format) {
    stand_on(name, format);
    return refusal(plain);
  };
  EXPECT_NE(refused("none.raw", "raw").find("No such file or directory"), std::string::npos);
  EXPECT_NE(refused("nbd://localhost", "raw").find("is not a plain file name"), std::string::npos);
  EXPECT_NE(refused("a.vmdk", "vmdk").find("the format of backing file '" + path("a.vmdk") + "' is 'vmdk'"), std::string::npos);
  for (const char* outside : {R"({"driver":"nbd","server":{"type":"unix","path":"/s"}})", R"({"driver":"raw","file":"disk"})",
                              R"({"driver":"nbd","server.type":"unix","server.path":"/s"})",
                              R"({"driver":"qcow2","node-name":"x","file.driver":"file","file.filename":"/x"})",
                              R"({"driver":"qcow2","file.filename":"/x","backing.driver":"null-co"})",
                              R"({"driver":"qcow2","file.filename":"/x","backing":"disk"})",
                              R"({"driver":"qcow2","file.filename":"/x","backing":{"driver":"raw","file":"disk"}})",
                              R"({"driver":"qcow2","file.filename":"/x","data-file.driver":"null-co"})"})
    EXPECT_NE(refused(std::string("json:") + outside, "").find("not made of plain files"), std::string::npos) << outside;
  const char* no_format = R"(json:{"driver":"qcow2","file.filename":"/x","backing.filename":"/y"})";
  EXPECT_NE(refused(no_format, "").find("'backing.driver'"), std::string::npos);
  EXPECT_NE(refused("json:{oops", "raw").find("backing file 'json:{oops'"), std::string::npos);
  EXPECT_NE(refused("json:[1]", "raw").find("it is no JSON object"), std::string::npos);
  EXPECT_NE(refused(R"(json:{"file":"x","file.driver":"file"})", "").find("used inconsistently"), std::string::npos);
  EXPECT_NE(refused(R"(json:{"file.driver":"file","file":{"driver":"file"}})", "").find("given twice"), std::string::npos);
  EXPECT_NE(refused(R"(json:{"driver":"qcow2","..":1})", "raw").find("backing file 'json:"), std::string::npos);
}

// The top is being written, and locked.
TEST_F(Opener, ChainsThatLoop) {
  const std::string what = "its backing chain loops: '" + path("a.qcow2") + "' is below itself";
  for (const char* format : {"qcow2", "raw", ""}) {
    stand_on("a.qcow2", format);
    EXPECT_NE(refusal(plain).find(what), std::string::npos) << format;
  }
  std::filesystem::create_symlink(path("a.qcow2"), path("link"));
  qemu_img("create -q -f qcow2 -u -b link -F qcow2 b.qcow2 1M");
  stand_on("b.qcow2", "qcow2");
  EXPECT_NE(refusal(plain).find("'" + path("link") + "' is below itself"), std::string::npos);
  EXPECT_NE(refusal(std::string(plain) + ",read-only=on").find("is below itself"), std::string::npos);
  EXPECT_NE(refusal(std::string(plain) + ",backing.driver=qcow2,backing.file.driver=file,backing.file.filename=@/b.qcow2")
                .find("is below itself"), std::string::npos);
  std::filesystem::create_hard_link(path("a.qcow2"), path("hard"));
  stand_on("json:{\"driver\":\"raw\",\"file.filename\":\"" + path("hard") + "\"}", "raw");
  EXPECT_NE(refusal(plain).find("is below itself"), std::string::npos);
  stand_on("json:{\"driver\":\"qcow2\",\"file.filename\":\"" + path("b.qcow2") +
               "\",\"backing.driver\":\"qcow2\",\"backing.file.filename\":\"" + path("hard") + "\"}", "qcow2");
  EXPECT_NE(refusal(plain).find("'" + path("hard") + "' is below itself"), std::string::npos);
}

}  // namespace
}  // namespace tidemark::test
