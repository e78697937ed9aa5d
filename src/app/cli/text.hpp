// How numbers and tables look to people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tidemark::cli {

std::string human_size(std::uint64_t bytes);            // "512 B", "1.5 MiB"
std::string human_duration(double seconds);             // "0.4 s", "1:05", "2:03:10"
// "64K", "1.5G", "1048576" (powers of 1024); false when it is no size.
bool parse_size(const std::string& text, std::uint64_t& bytes);

class Table {
 public:
  explicit Table(std::vector<std::string> head) { rows_.push_back(std::move(head)); }
  void add(std::vector<std::string> row);                 // of any text
  // Columns as wide as they need; those whose cells all begin with a digit are right-aligned.
  std::string to_text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace tidemark::cli
