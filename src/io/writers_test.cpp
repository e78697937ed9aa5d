#include "io/writers.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <unistd.h>

namespace tidemark {
namespace {

TEST(Writers, AreSeenWhileTheyAreThere) {
  const char* directory = std::getenv("TMPDIR");
  std::string path = std::string(directory ? directory : "/tmp") + "/tidemark-writers-XXXXXX";
  const int writer = ::mkstemp(path.data());
  ASSERT_GE(writer, 0);
  EXPECT_EQ(writers_of(path), Writers::some);
  ::close(writer);
  const int reader = ::open(path.c_str(), O_RDONLY);
  EXPECT_EQ(writers_of(path), Writers::none);
  ::close(reader);
  ::unlink(path.c_str());
  EXPECT_EQ(writers_of(path), Writers::unknown);
  EXPECT_EQ(writers_of("/dev/null"), Writers::unknown);
}

}  // namespace
}  // namespace tidemark
