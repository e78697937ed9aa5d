#include "app/cli/image/uri.hpp"

#include <fmt/format.h>

namespace tidemark::cli {
namespace {

Error bad(const std::string& name, std::string_view why) {
  return Error(Errc::invalid_argument, fmt::format("'{}' is no NBD address: {}", name, why));
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool unescape(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || hex_digit(text[i + 1]) < 0 || hex_digit(text[i + 2]) < 0) return false;
    out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
    i += 2;
  }
  return out.find('\0') == std::string::npos;
}

Json unix_server(std::string path) { return Json::object({{"type", "unix"}, {"path", std::move(path)}}); }
Json inet_server(std::string host, std::string port) {
  return Json::object({{"type", "inet"}, {"host", std::move(host)}, {"port", std::move(port)}});
}

Json nbd_node(Json server, std::string export_name) {
  Json node = Json::object({{"driver", "nbd"}, {"server", std::move(server)}});
  if (!export_name.empty()) node.set("export", std::move(export_name));
  return node;
}

// HOST, HOST:PORT, [IPV6], [IPV6]:PORT
Result<Json> host_and_port(const std::string& name, std::string_view text) {
  std::string host, port = "10809";
  std::string_view rest;
  if (text.starts_with('[')) {
    const auto end = text.find(']');
    if (end == text.npos) return bad(name, "'[' is not closed");
    host = text.substr(1, end - 1);
    rest = text.substr(end + 1);
  } else {
    host = text.substr(0, text.find(':'));
    rest = text.substr(host.size());
  }
  if (rest.size() > 1 && rest[0] == ':') port = rest.substr(1);
  else if (!rest.empty()) return bad(name, "its port is missing");
  if (host.empty()) return bad(name, "it has no host");
  return inet_server(std::move(host), std::move(port));
}

Result<Json> from_uri(const std::string& name, bool over_unix) {
  std::string_view rest = std::string_view(name).substr(name.find("://") + 3);
  const auto question = rest.find('?');
  const std::string_view query = question == rest.npos ? std::string_view() : rest.substr(question + 1);
  rest = rest.substr(0, question);
  const auto slash = rest.find('/');
  const std::string_view authority = rest.substr(0, slash);
  std::string export_name, socket;
  if (slash != rest.npos && !unescape(rest.substr(slash + 1), export_name)) return bad(name, "its escapes are wrong");
  if (!over_unix) {
    if (!query.empty()) return bad(name, "it takes no query");
    auto server = host_and_port(name, authority);
    if (!server) return server.error();
    return nbd_node(*std::move(server), std::move(export_name));
  }
  if (!authority.empty()) return bad(name, "a host does not go with a socket");
  if (!query.starts_with("socket=") || !unescape(query.substr(7), socket) || socket.empty())
    return bad(name, "write nbd+unix:///EXPORT?socket=PATH");
  return nbd_node(unix_server(std::move(socket)), std::move(export_name));
}

// nbd:HOST:PORT[:exportname=NAME], nbd:unix:PATH[:exportname=NAME]
Result<Json> from_old(const std::string& name) {
  constexpr std::string_view mark = ":exportname=";
  std::string_view rest = std::string_view(name).substr(4);
  std::string export_name;
  if (const auto at = rest.find(mark); at != rest.npos) {
    export_name = rest.substr(at + mark.size());
    rest = rest.substr(0, at);
  }
  if (rest.starts_with("unix:")) return nbd_node(unix_server(std::string(rest.substr(5))), std::move(export_name));
  auto server = host_and_port(name, rest);
  if (!server) return server.error();
  return nbd_node(*std::move(server), std::move(export_name));
}

}  // namespace

Result<Json> describe_nbd(const std::string& name) {
  if (name.starts_with("nbd+unix://")) return from_uri(name, true);
  if (name.starts_with("nbd://")) return from_uri(name, false);
  if (name.starts_with("nbd:")) return from_old(name);
  return bad(name, "write nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH");
}

}  // namespace tidemark::cli
