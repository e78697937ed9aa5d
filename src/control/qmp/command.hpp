// Command and CommandTable: from the name and arguments of a command to the method that carries it
// out.  The table is filled by generated code (control/qmp/command_table.hpp), which also fails to
// compile where a method is missing.
#pragma once

#include <functional>
#include <map>
#include <string_view>

#include "schema/output.hpp"
#include "task/task.hpp"

namespace tidemark {

// Runs a command: arguments (an object) to what it returns, `{}` when it returns nothing.
using Command = std::function<Task<Json>(Json arguments)>;

namespace detail {

template <class Returns>
Task<Json> answer(Task<Returns> task) {
  if constexpr (std::is_void_v<Returns>) {
    co_await std::move(task);
    co_return Json::object();
  } else {
    Returns value = co_await std::move(task);
    using schema::to_json;
    co_return to_json(value);
  }
}

}  // namespace detail

class CommandTable {
 public:
  template <class Handler, class Returns, class Arguments>
  void add(std::string_view name, Handler& handler, Task<Returns> (Handler::*method)(Arguments)) {
    commands_.emplace(name, [&handler, method](Json json) {
      return run<Handler, Returns, Arguments>(handler, method, std::move(json));
    });
  }
  template <class Handler, class Returns>
  void add(std::string_view name, Handler& handler, Task<Returns> (Handler::*method)()) {
    commands_.emplace(name, [&handler, method](Json json) {
      return run<Handler, Returns>(handler, method, std::move(json));
    });
  }

  // Null when there is none of that name.
  const Command* find(std::string_view name) const {
    const auto found = commands_.find(name);
    return found == commands_.end() ? nullptr : &found->second;
  }

 private:
  template <class Handler, class Returns, class Arguments>
  static Task<Json> run(Handler& handler, Task<Returns> (Handler::*method)(Arguments), Json json) {
    Result<Arguments> read = schema::from_json<Arguments>(json);
    Arguments arguments = co_await unwrap(std::move(read));
    Task<Returns> task = (handler.*method)(std::move(arguments));
    co_return co_await detail::answer(std::move(task));
  }
  template <class Handler, class Returns>
  static Task<Json> run(Handler& handler, Task<Returns> (Handler::*method)(), Json json) {
    Result<schema::Nothing> read = schema::from_json<schema::Nothing>(json);
    co_await unwrap(std::move(read));
    Task<Returns> task = (handler.*method)();
    co_return co_await detail::answer(std::move(task));
  }

  std::map<std::string_view, Command> commands_;  // names live as long as the program
};

}  // namespace tidemark
