// A directory of stores, as their roots tell of devices.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/threads/threads_backend.hpp"
#include "tracking/superblock.hpp"

namespace tidemark {

struct DeviceStoresTest : testing::Test {
  using Names = std::vector<std::string>;

  DeviceStoresTest() {
    std::string made = std::filesystem::temp_directory_path() / "tidemark-stores-XXXXXX";
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    top = made;
    auto started = make_threads_backend(1);
    EXPECT_TRUE(started.ok());
    backend = *std::move(started);
    reactor = std::make_unique<Reactor>(*backend);
  }
  ~DeviceStoresTest() override { std::filesystem::remove_all(top); }

  std::string at(const std::string& name) const { return (top / name).string(); }
  // One that knows its device, of that size, by that name.
  void make(const std::string& name, const std::string& known_by, std::uint64_t size = 0) {
    tracking::Superblock root;
    root.version = 1;
    root.log_bytes = 64 * KiB;
    root.catalogue = {root.data_start(), root.data_start() + 4096};
    root.catalogue_bytes = 4096;
    root.image.is_device = true;
    root.image.size = size;
    root.image.stable_id = known_by;
    const auto block = root.encode();
    const std::string_view text = as_text(block);
    std::ofstream(top / name) << text << text;
  }

  std::filesystem::path top;
  std::unique_ptr<IoBackend> backend;
  std::unique_ptr<Reactor> reactor;
};

}  // namespace tidemark
