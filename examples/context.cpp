// SPDX-License-Identifier: MIT
//
// context FILE: prints a checksum of a file that it reads with many requests in flight.
//
// Shows libaio in C++20.  A context is an object: it is made by its constructor, destroyed by its
// destructor, moved and not copied.  A request owns its buffer, and cannot be moved while the kernel
// knows where it is.  Negative error numbers become std::system_error at the one place where each
// call is made.  And an exception is safe at any time: the context goes first, and io_destroy waits
// for what is in flight, so the buffers outlive their requests.
//
//	c++ -std=c++20 -o context context.cpp -laio
//	./context /usr/share/dict/words
#include <fcntl.h>
#include <libaio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

namespace
{

// What a call of libaio returns: a count, or an error.
int checked(int result, const char *what)
{
	if (result < 0)
		throw std::system_error(-result, std::generic_category(), what);
	return result;
}

class file
{
      public:
	explicit file(const char *path) : descriptor_(open(path, O_RDONLY | O_CLOEXEC))
	{
		if (descriptor_ < 0)
			throw std::system_error(errno, std::generic_category(), path);
	}
	file(const file &) = delete;
	file &operator=(const file &) = delete;
	~file()
	{
		close(descriptor_);
	}
	int descriptor() const
	{
		return descriptor_;
	}

      private:
	int descriptor_;
};

class context
{
      public:
	explicit context(int requests)
	{
		checked(io_setup(requests, &handle_), "io_setup");
	}
	context(context &&other) noexcept : handle_(std::exchange(other.handle_, nullptr))
	{
	}
	context &operator=(context &&) = delete;
	// Returns when no request of the context is in flight.
	~context()
	{
		if (handle_)
			io_destroy(handle_);
	}

	// All of them, or an exception; then those in front may be in flight all the same.
	void submit(std::span<iocb *> batch)
	{
		while (!batch.empty()) {
			int taken = checked(
				io_submit(handle_, static_cast<long>(batch.size()), batch.data()),
				"io_submit");
			batch = batch.subspan(static_cast<std::size_t>(taken));
		}
	}

	// At least one event, and as many as there are and find room.
	std::span<const io_event> wait(std::span<io_event> room)
	{
		int count;

		do
			count = io_getevents(handle_, 1, static_cast<long>(room.size()),
					     room.data(), nullptr);
		while (count == -EINTR);
		checked(count, "io_getevents");
		return room.first(static_cast<std::size_t>(count));
	}

      private:
	io_context_t handle_ = nullptr;
};

class read_request
{
      public:
	static constexpr std::size_t block_bytes = 65536;

	read_request() = default;
	read_request(const read_request &) = delete;
	read_request &operator=(const read_request &) = delete;

	iocb *prepare(const file &from, std::uint64_t offset)
	{
		io_prep_pread(&iocb_, from.descriptor(), data_.get(), block_bytes,
			      static_cast<long long>(offset));
		iocb_.data = this;
		return &iocb_;
	}

	static read_request &of(const io_event &event)
	{
		return *static_cast<read_request *>(event.data);
	}

	std::uint64_t offset() const
	{
		return static_cast<std::uint64_t>(iocb_.u.c.offset);
	}

	// What was read: nothing at the end of the file.
	std::span<const std::byte> data(const io_event &event) const
	{
		auto result = static_cast<std::ptrdiff_t>(event.res);

		if (result < 0)
			throw std::system_error(static_cast<int>(-result), std::generic_category(),
						"read");
		return { data_.get(), static_cast<std::size_t>(result) };
	}

      private:
	struct freeing {
		void operator()(std::byte *memory) const
		{
			std::free(memory);
		}
	};
	static std::byte *aligned_block()
	{
		void *memory = std::aligned_alloc(4096, block_bytes);

		return memory ? static_cast<std::byte *>(memory) : throw std::bad_alloc();
	}

	iocb iocb_{};
	std::unique_ptr<std::byte, freeing> data_{ aligned_block() };
};

// Each byte counts with its place, so that blocks may be added in any order.
std::uint64_t sum_of(std::span<const std::byte> data, std::uint64_t offset)
{
	std::uint64_t sum = 0;

	for (std::byte byte : data)
		sum += (std::to_integer<std::uint64_t>(byte) + 1) *
		       (++offset * 0x9e3779b97f4a7c15u);
	return sum;
}

std::uint64_t sum_of_file(const char *path)
{
	constexpr std::size_t depth = 16;
	file from(path);
	std::vector<read_request> requests(depth);
	std::vector<iocb *> batch;
	std::vector<io_event> room(depth);
	context aio(depth); // the last one made is the first to go
	std::uint64_t sum = 0, next = 0;
	std::size_t in_flight = 0;
	bool at_end = false;

	for (read_request &request : requests) {
		batch.push_back(request.prepare(from, next));
		next += read_request::block_bytes;
	}
	do {
		aio.submit(batch);
		in_flight += batch.size();
		batch.clear();
		for (const io_event &event : aio.wait(room)) {
			read_request &request = read_request::of(event);
			std::span<const std::byte> data = request.data(event);
			std::uint64_t end = request.offset() + data.size();

			in_flight--;
			sum += sum_of(data, request.offset());
			if (data.empty()) {
				at_end = true;
			} else if (data.size() < read_request::block_bytes) {
				// A short read ends a file only if the next one finds nothing.
				batch.push_back(request.prepare(from, end));
			} else if (!at_end) {
				batch.push_back(request.prepare(from, next));
				next += read_request::block_bytes;
			}
		}
	} while (in_flight > 0 || !batch.empty());
	return sum;
}

// The same by a stream.
std::uint64_t sum_of_stream(const char *path)
{
	std::ifstream stream(path, std::ios::binary);
	std::vector<char> block(read_request::block_bytes);
	std::uint64_t sum = 0, offset = 0;

	while (stream.read(block.data(), static_cast<std::streamsize>(block.size())),
	       stream.gcount() > 0) {
		auto count = static_cast<std::size_t>(stream.gcount());

		sum += sum_of(std::as_bytes(std::span(block).first(count)), offset);
		offset += count;
	}
	return sum;
}

} // namespace

int main(int argc, char **argv)
try {
	if (argc != 2) {
		std::cerr << "usage: context FILE\n";
		return 2;
	}
	std::uint64_t sum = sum_of_file(argv[1]);

	if (sum != sum_of_stream(argv[1]))
		throw std::runtime_error("a stream finds other data");
	std::cout << std::hex << sum << std::endl;
	return std::cout ? 0 : 1;
} catch (const std::exception &error) {
	std::cerr << "context: " << error.what() << '\n';
	return 1;
}
