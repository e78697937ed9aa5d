#include "app/cli/context.hpp"

#include <cstdio>

#include "app/runtime.hpp"
#include "base/utf8.hpp"

namespace tidemark::cli {

Task<QmpClient> Context::connect() const {
  SocketAddress address;
  address.path = qmp_socket;
  return QmpClient::connect(reactor, std::move(address), interrupted);
}

Result<> Context::check_interrupted() const {
  if (interrupted.requested()) return Error(Errc::cancelled, "interrupted");
  return {};
}

void print_json(const Json& value) { print_lines(tidemark::to_text(value, 2)); }

void print_line(const std::string& line) { print_lines(printable(line)); }

void print_lines(const std::string& lines) {
  std::fwrite(lines.data(), 1, lines.size(), stdout);
  if (!lines.ends_with('\n')) std::fputc('\n', stdout);
  std::fflush(stdout);                 // for who reads along; a failure is found at the end, by main()
}

void print_error(const Error& error, bool json) { complain("tidemark", error, json); }

}  // namespace tidemark::cli
