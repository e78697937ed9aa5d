#include "io/owner.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace tidemark {
namespace {

namespace files = std::filesystem;

class OwnerTest : public testing::Test {
 protected:
  OwnerTest() {
    std::string made = files::temp_directory_path() / "tidemark-owner-XXXXXX";
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    top = made;
    make("old", 0664);
    make("new", 0600);
    make("secret", 0600);
  }
  ~OwnerTest() override { files::remove_all(top); }
  void make(const char* name, mode_t mode) {
    std::ofstream(top / name) << name;
    EXPECT_EQ(::chmod((top / name).c_str(), mode), 0);
  }
  mode_t mode(const char* name) const {
    struct stat info;
    return ::stat((top / name).c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
  }
  Result<> take(const char* to) const { return take_over_owner((top / "old").string(), (top / to).string()); }

  files::path top;
};

TEST_F(OwnerTest, TheModeIsThatOfTheFileThatIsReplaced) {
  EXPECT_TRUE(take("new").ok());
  EXPECT_EQ(mode("new"), 0664u);
}

// In a directory of others it may have become another file meanwhile, which root may reach and they may not.
TEST_F(OwnerTest, NoOtherFileIsGivenAway) {
  files::create_symlink("secret", top / "link");
  files::create_hard_link(top / "secret", top / "also");
  EXPECT_FALSE(take("link").ok());
  EXPECT_FALSE(take("also").ok());
  EXPECT_FALSE(take("gone").ok());
  EXPECT_EQ(mode("secret"), 0600u);
}

}  // namespace
}  // namespace tidemark
