#include "format/qcow2/layout/write_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace tidemark::qcow2 {
namespace {

std::size_t position(const WriteOrder& order, Stage stage) {
  const auto sequence = order.sequence();
  return static_cast<std::size_t>(std::find(sequence.begin(), sequence.end(), stage) - sequence.begin());
}

TEST(WriteOrder, IsTransitive) {
  const WriteOrder order = WriteOrder::standard();
  EXPECT_TRUE(order.must_precede(Stage::data, Stage::l2_tables));
  EXPECT_TRUE(order.must_precede(Stage::refcount_blocks, Stage::l2_tables));
  EXPECT_TRUE(order.must_precede(Stage::refcount_blocks, Stage::frees));
  EXPECT_FALSE(order.must_precede(Stage::l2_tables, Stage::l1_table));
  EXPECT_FALSE(order.must_precede(Stage::frees, Stage::data));
}

TEST(WriteOrder, TheSequenceKeepsEveryRule) {
  WriteOrder order;
  EXPECT_TRUE(order.declare(Stage::frees, Stage::l1_table).ok());
  EXPECT_TRUE(order.declare(Stage::l1_table, Stage::data).ok());
  EXPECT_TRUE(order.declare(Stage::l2_tables, Stage::frees).ok());
  EXPECT_LT(position(order, Stage::l2_tables), position(order, Stage::frees));
  EXPECT_LT(position(order, Stage::frees), position(order, Stage::l1_table));
  EXPECT_LT(position(order, Stage::l1_table), position(order, Stage::data));
}

TEST(WriteOrder, RefusesCycles) {
  WriteOrder order = WriteOrder::standard();
  EXPECT_FALSE(order.declare(Stage::frees, Stage::data).ok());
  EXPECT_FALSE(order.declare(Stage::l2_tables, Stage::l2_tables).ok());
  EXPECT_FALSE(order.must_precede(Stage::frees, Stage::data));
  EXPECT_TRUE(order.declare(Stage::data, Stage::refcount_blocks).ok());
}

}  // namespace
}  // namespace tidemark::qcow2
