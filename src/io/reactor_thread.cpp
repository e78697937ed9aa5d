#include "io/reactor_thread.hpp"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace tidemark {

Result<std::unique_ptr<ReactorThread>> ReactorThread::start(std::unique_ptr<IoBackend> backend, std::string name) {
  std::unique_ptr<ReactorThread> made(new ReactorThread(std::move(backend)));
  ReactorThread* self = made.get();
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the threads that expect them
  Result<> started;
  try {
    made->thread_ = std::thread([self] { self->run(); });
  } catch (const std::system_error& e) {
    started = Error::from_errno(e.code().value(), "start a thread");
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!started) return started.error();
  ::pthread_setname_np(made->thread_.native_handle(), name.substr(0, 15).c_str());
  return made;
}

void ReactorThread::run() {
  while (!ending_) reactor_.turn();
}

ReactorThread::~ReactorThread() {
  if (!thread_.joinable()) return;
  reactor_.post_remote([this] { ending_ = true; });
  thread_.join();
}

}  // namespace tidemark
