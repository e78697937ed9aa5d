// For tests of formats against files and QEMU's tools: a reactor with a graph, a directory that goes
// with the test, chains of images opened by path, and qemu-img run on them.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"
#include "format/raw/raw.hpp"
#include "io/threads/threads_backend.hpp"
#include "storage/file.hpp"

namespace tidemark::test {

struct Output {
  int status = -1;
  std::string text;                      // stdout and stderr
};

inline Output run_shell(const std::string& command) {
  Output output;
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return output;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) != 0;) output.text.append(buffer, n);
  output.status = ::pclose(pipe);
  return output;
}

class ImageTest : public ::testing::Test {
 protected:
  ImageTest() {
    auto made = make_threads_backend(4);
    TM_ASSERT(made.ok());
    backend_ = *std::move(made);
    reactor_ = std::make_unique<Reactor>(*backend_);
    graph_ = std::make_unique<Graph>(*reactor_);
    const char* base = std::getenv("TMPDIR");
    std::string name = std::string(base ? base : "/tmp") + "/tidemark-qcow2-XXXXXX";
    TM_ASSERT(::mkdtemp(name.data()));
    directory_ = name;
  }
  ~ImageTest() override {
    close_all();
    graph_.reset();
    reactor_.reset();
    backend_.reset();
    std::filesystem::remove_all(directory_);
  }

  template <class T>
  T run(Task<T> task) {
    Result<T> outcome = reactor_->run(std::move(task));
    if (!outcome) ADD_FAILURE() << outcome.error().message();
    TM_ASSERT(outcome.ok());
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
  }
  template <class T>
  std::string failure(Task<T> task) {
    Result<T> outcome = reactor_->run(std::move(task));
    return outcome ? "no error" : outcome.error().message();
  }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  Task<BlockNode*> open_file_node(std::string file, bool read_only) {
    FileOptions options;
    options.filename = std::move(file);
    options.read_only = read_only;
    options.direct = direct_;
    auto driver = co_await open_file(*reactor_, std::move(options));
    NodeOptions node;
    node.read_only = read_only;
    co_return co_await graph_->add(node, std::move(driver));
  }
  static Permissions file_permissions(bool read_only) {
    using P = Permissions;
    const auto uses = read_only ? P::consistent_read : P::consistent_read | P::write | P::resize;
    return {static_cast<P::Set>(uses), P::all};
  }

  // The image and what is below it, as the names in the headers say.
  Task<BlockNode*> open_chain(std::string file, Qcow2OpenOptions options) {
    BlockNode* storage = co_await open_file_node(file, options.read_only);
    auto edge = co_await unwrap(
        Edge::attach(*storage, Role::file, file_permissions(options.read_only), "test"));
    options.data_file_follows = true;
    auto opened = co_await Qcow2Driver::open(std::move(edge), options).result();
    if (!opened) {
      co_await graph_->release(*storage);
      co_await opened.error();
    }
    std::unique_ptr<Qcow2Driver> driver = *std::move(opened);
    if (driver->needs_data_file()) {
      const std::string data = std::filesystem::path(file).parent_path() / driver->data_file();
      BlockNode* outside = co_await open_file_node(data, options.read_only);
      driver->set_data_file(co_await unwrap(
          Edge::attach(*outside, Role::data_file, file_permissions(options.read_only), "test")));
    }
    if (!driver->backing_file().empty()) {
      const std::string below = std::filesystem::path(file).parent_path() / driver->backing_file();
      Qcow2OpenOptions read_only;
      read_only.read_only = true;
      BlockNode* backing = nullptr;
      if (driver->backing_format() == "raw") backing = co_await open_file_node(below, true);
      else backing = co_await open_chain(below, read_only);
      const Permissions reads{Permissions::consistent_read, Permissions::all};
      driver->set_backing(co_await unwrap(Edge::attach(*backing, Role::backing, reads, "test")));
    }
    NodeOptions node;
    node.read_only = options.read_only;
    co_return co_await graph_->add(node, std::move(driver));
  }

  // Opens an image for the test's own use until close_all().
  Edge& open(const std::string& name, Qcow2OpenOptions options = {}) {
    BlockNode* node = run(open_chain(path(name), options));
    using P = Permissions;
    const auto uses = options.read_only ? P::consistent_read : P::consistent_read | P::write | P::resize;
    auto root = Edge::attach(*node, Role::root, {static_cast<P::Set>(uses), P::all}, "test");
    TM_ASSERT(root.ok());
    roots_.push_back(*std::move(root));
    return *roots_.back();
  }
  Edge& open_read_only(const std::string& name) {
    Qcow2OpenOptions options;
    options.read_only = true;
    return open(name, options);
  }
  std::string open_failure(const std::string& name, Qcow2OpenOptions options = {}) {
    return failure(open_chain(path(name), options));
  }
  void close_all() {
    roots_.clear();
    run(graph_->close_all());
  }

  void create(const std::string& name, Qcow2CreateOptions options) {
    const Result<> made = reactor_->run(try_create(path(name), options));
    ASSERT_TRUE(made.ok()) << made.error().message();
  }
  Task<> try_create(std::string file, const Qcow2CreateOptions& options) {
    co_await create_file(*reactor_, file, 0, FilePreallocation::off);
    BlockNode* storage = co_await open_file_node(file, false);
    BlockNode* outside = nullptr;
    if (!options.data_file.empty()) {
      const std::string data = std::filesystem::path(file).parent_path() / options.data_file;
      co_await create_file(*reactor_, data, 0, FilePreallocation::off);
      outside = co_await open_file_node(data, false);
    }
    const Result<> made = co_await create_on(*storage, outside, options).result();
    co_await graph_->release(*storage);
    if (outside) co_await graph_->release(*outside);
    co_await unwrap(made);
  }
  Task<> create_on(BlockNode& storage, BlockNode* outside, Qcow2CreateOptions options) {
    auto edge = co_await unwrap(Edge::attach(storage, Role::root, file_permissions(false), "test"));
    std::unique_ptr<Edge> data;
    if (outside) data = co_await unwrap(Edge::attach(*outside, Role::root, file_permissions(false), "test"));
    co_await Qcow2Driver::create(*edge, options, data.get());
  }

  std::vector<std::byte> read(Edge& edge, std::uint64_t offset, std::size_t length) {
    AlignedBuffer buffer(length);
    run(edge.read(offset, buffer.bytes()));
    return {buffer.bytes().begin(), buffer.bytes().end()};
  }
  void write(Edge& edge, std::uint64_t offset, Bytes bytes) {
    AlignedBuffer buffer(bytes.size());
    std::copy(bytes.begin(), bytes.end(), buffer.data());
    run(edge.write(offset, buffer.bytes()));
  }

  // qemu-img with arguments, in the test's directory; its output.
  std::string qemu_img(const std::string& arguments) {
    const Output output = run_shell("cd '" + directory_ + "' && qemu-img " + arguments);
    EXPECT_EQ(output.status, 0) << "qemu-img " << arguments << "\n" << output.text;
    return output.text;
  }
  // Nothing is wrong with the image, not even a leak.
  void expect_clean(const std::string& name) {
    const Output output = run_shell("cd '" + directory_ + "' && qemu-img check -f qcow2 " + name);
    EXPECT_EQ(output.status, 0) << output.text;
  }
  // QEMU sees these bytes as the image's content.
  void expect_content(const std::string& name, Bytes content) {
    write_file("expected.raw", content);
    const Output output = run_shell("cd '" + directory_ + "' && qemu-img compare -f qcow2 -F raw " + name +
                                    " expected.raw");
    EXPECT_EQ(output.status, 0) << output.text;
  }
  void write_file(const std::string& name, Bytes content) {
    std::FILE* file = std::fopen(path(name).c_str(), "wb");
    ASSERT_TRUE(file);
    if (!content.empty()) {
      EXPECT_EQ(std::fwrite(content.data(), 1, content.size(), file), content.size());
    }
    std::fclose(file);
  }

  std::unique_ptr<IoBackend> backend_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<Graph> graph_;
  std::vector<std::unique_ptr<Edge>> roots_;
  std::string directory_;
  bool direct_ = false;
};

// Bytes that look like data: random, but compressible where `runs`.
inline std::vector<std::byte> random_bytes(Prng& prng, std::size_t length, bool runs = false) {
  std::vector<std::byte> bytes(length);
  for (std::size_t i = 0; i < length;) {
    const std::size_t run = runs ? 1 + prng.below(200) : 1;
    const auto value = static_cast<std::byte>(prng());
    for (std::size_t n = 0; n < run && i < length; ++n, ++i) bytes[i] = value;
  }
  return bytes;
}

}  // namespace tidemark::test
