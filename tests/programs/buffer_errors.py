#!/usr/bin/env python3
"""What OpenCL says of right and wrong commands on buffers, one line a call.

Needs Python alone: it calls the OpenCL loader itself. buffer_errors.expected has what the specification asks for. PoCL
differs in a few lines: it takes flags and map flags that do not exist, and counts a sub-buffer's maps as its buffer's.
"""
import ctypes
from ctypes import byref, c_int32, c_size_t, c_uint32, c_uint64, c_void_p, create_string_buffer

cl = ctypes.CDLL("libOpenCL.so.1")

READ_WRITE, WRITE_ONLY, READ_ONLY, USE_HOST_PTR, ALLOC_HOST_PTR, COPY_HOST_PTR = (1 << n for n in range(6))
HOST_WRITE_ONLY, HOST_READ_ONLY, HOST_NO_ACCESS = (1 << n for n in (7, 8, 9))
MAP_READ, MAP_WRITE, MAP_INVALIDATE = 1, 2, 4
SIZE = 4096
NULL = None

for name in ("clCreateContext", "clCreateCommandQueue", "clCreateBuffer", "clCreateSubBuffer", "clEnqueueMapBuffer",
             "clCreateUserEvent", "clCreateBufferWithProperties"):
    getattr(cl, name).restype = c_void_p


def must(code):
    assert code == 0, code


def first(function, *arguments):
    found = c_void_p()
    must(function(*arguments, 1, byref(found), None))
    return found


platform = first(cl.clGetPlatformIDs)
device = first(lambda *a: cl.clGetDeviceIDs(platform, c_uint64(0xFFFFFFFF), *a))


def new_context():
    code = c_int32()
    context = c_void_p(cl.clCreateContext(None, 1, byref(device), None, None, byref(code)))
    must(code.value)
    return context


def new_queue(context):
    code = c_int32()
    queue = c_void_p(cl.clCreateCommandQueue(context, device, c_uint64(0), byref(code)))
    must(code.value)
    return queue


context, other_context = new_context(), new_context()
queue, other_queue = new_queue(context), new_queue(other_context)


def create(flags=READ_WRITE, size=SIZE, host=NULL, context=context):
    code = c_int32()
    memory = cl.clCreateBuffer(context, c_uint64(flags), c_size_t(size), host, byref(code))
    return c_void_p(memory), code.value


def buffer(flags=READ_WRITE, size=SIZE, host=NULL, context=context):
    memory, code = create(flags, size, host, context)
    must(code)
    return memory


def create_sub(parent, origin, size, flags=0, kind=0x1220):
    code = c_int32()
    region = (c_size_t * 2)(origin, size)
    memory = cl.clCreateSubBuffer(parent, c_uint64(flags), c_uint32(kind), byref(region), byref(code))
    return c_void_p(memory), code.value


def sub(*arguments):
    memory, code = create_sub(*arguments)
    must(code)
    return memory


def number(memory, parameter, kind=c_uint64):
    value, size = kind(), c_size_t()
    code = cl.clGetMemObjectInfo(memory, c_uint32(parameter), c_size_t(8), byref(value), byref(size))
    return (code, size.value, value.value)


def say(what, *outcome):
    print(f"{what}:", *outcome)


def three(values):
    return NULL if values is NULL else byref((c_size_t * 3)(*values))


def events(count, *list_):
    return c_uint32(count), byref((c_void_p * len(list_))(*list_)) if list_ else NULL


NO_EVENTS = events(0)
memory_of_ours = create_string_buffer(4 * SIZE)


def read(b, offset, size, ptr=memory_of_ours, q=queue, wait=NO_EVENTS):
    return cl.clEnqueueReadBuffer(q, b, 1, c_size_t(offset), c_size_t(size), ptr, *wait, NULL)


def write(b, offset, size, ptr=memory_of_ours, q=queue, wait=NO_EVENTS):
    return cl.clEnqueueWriteBuffer(q, b, 1, c_size_t(offset), c_size_t(size), ptr, *wait, NULL)


def copy(a, b, src, dst, size, q=queue, wait=NO_EVENTS):
    code = cl.clEnqueueCopyBuffer(q, a, b, c_size_t(src), c_size_t(dst), c_size_t(size), *wait, NULL)
    must(cl.clFinish(q))
    return code


def rect(function, b, origin, host, region, pitches, ptr=memory_of_ours, q=queue, wait=NO_EVENTS):
    pitches = [c_size_t(pitch) for pitch in pitches]
    return function(q, b, 1, three(origin), three(host), three(region), *pitches, ptr, *wait, NULL)


def copy_rect(a, b, src, dst, region, pitches, q=queue, wait=NO_EVENTS):
    pitches = [c_size_t(pitch) for pitch in pitches]
    code = cl.clEnqueueCopyBufferRect(q, a, b, three(src), three(dst), three(region), *pitches, *wait, NULL)
    must(cl.clFinish(q))
    return code


def fill(b, pattern, pattern_size, offset, size, q=queue, wait=NO_EVENTS):
    code = cl.clEnqueueFillBuffer(
        q, b, pattern, c_size_t(pattern_size), c_size_t(offset), c_size_t(size), *wait, NULL)
    must(cl.clFinish(q))
    return code


def map_(b, flags, offset, size, q=queue, wait=NO_EVENTS):
    code = c_int32()
    pointer = cl.clEnqueueMapBuffer(
        q, b, 1, c_uint64(flags), c_size_t(offset), c_size_t(size), *wait, NULL, byref(code))
    return pointer, code.value


def unmap(b, pointer, q=queue):
    code = cl.clEnqueueUnmapMemObject(q, b, c_void_p(pointer), *NO_EVENTS, NULL)
    must(cl.clFinish(q))
    return code


def creation():
    host = create_string_buffer(SIZE)
    for flags in (0, READ_WRITE | READ_ONLY, READ_ONLY | WRITE_ONLY, HOST_READ_ONLY | HOST_WRITE_ONLY,
                  HOST_READ_ONLY | HOST_NO_ACCESS, 1 << 6, 1 << 13, 1 << 40, USE_HOST_PTR | COPY_HOST_PTR,
                  USE_HOST_PTR | ALLOC_HOST_PTR):
        for pointer in (NULL, host):
            say(f"create flags {flags:#x} {'with' if pointer else 'without'} memory", create(flags, SIZE, pointer)[1])
    for flags in (USE_HOST_PTR, COPY_HOST_PTR, ALLOC_HOST_PTR, ALLOC_HOST_PTR | COPY_HOST_PTR, READ_ONLY):
        for pointer in (NULL, host):
            say(f"create flags {flags:#x} {'with' if pointer else 'without'} memory", create(flags, SIZE, pointer)[1])
    say("create of no size", create(READ_WRITE, 0)[1])
    say("create of too large a size", create(READ_WRITE, (1 << 64) - 1)[1])
    say("create without a context", create(READ_WRITE, SIZE, NULL, NULL)[1])
    for flags in (0, WRITE_ONLY, HOST_READ_ONLY, ALLOC_HOST_PTR):
        say(f"flags of a buffer made with {flags:#x}", number(buffer(flags), 0x1101))
    b = buffer(USE_HOST_PTR, SIZE, host)
    for parameter, kind in ((0x1100, c_uint32), (0x1102, c_uint64), (0x1104, c_uint32), (0x1105, c_uint32),
                            (0x1108, c_uint64), (0x1109, c_uint32), (0x110A, c_uint64), (0x1110, c_uint32), (0, c_uint64)):
        say(f"parameter {parameter:#x}", number(b, parameter, kind))
    say("host pointer", number(b, 0x1103)[2] == ctypes.addressof(host), number(buffer(), 0x1103))
    say("info of nothing", cl.clGetMemObjectInfo(NULL, 0x1100, c_size_t(0), NULL, NULL))
    value = c_uint32()
    say("info into too little", cl.clGetMemObjectInfo(b, 0x1102, c_size_t(4), byref(value), NULL))
    say("retain and release of nothing", cl.clRetainMemObject(NULL), cl.clReleaseMemObject(NULL))


def sub_buffers():
    host = create_string_buffer(SIZE)
    align = c_uint32()
    must(cl.clGetDeviceInfo(device, 0x1019, c_size_t(4), byref(align), NULL))
    align = align.value // 8
    parent = buffer(USE_HOST_PTR, SIZE, host)
    part = sub(parent, align, SIZE - align)
    for origin, size, flags, kind in (
            (0, SIZE, 0, 0x1220), (0, 0, 0, 0x1220), (0, SIZE + 1, 0, 0x1220), (SIZE, 1, 0, 0x1220),
            (1, 8, 0, 0x1220), (align, SIZE, 0, 0x1220), (0, SIZE, 0, 0x1221), (0, 8, USE_HOST_PTR, 0x1220),
            (0, 8, COPY_HOST_PTR, 0x1220), (0, 8, ALLOC_HOST_PTR, 0x1220), (0, 8, READ_ONLY | WRITE_ONLY, 0x1220),
            (0, 8, 1 << 40, 0x1220)):
        what = "aligned" if origin == align else origin
        say(f"sub-buffer {what} {size} {flags:#x} {kind:#x}", create_sub(parent, origin, size, flags, kind)[1])
    say("sub-buffer of a sub-buffer", create_sub(part, 0, 8)[1])
    say("sub-buffer of nothing", create_sub(NULL, 0, 8)[1])
    for of in (READ_WRITE, READ_ONLY, WRITE_ONLY, HOST_READ_ONLY, HOST_WRITE_ONLY, HOST_NO_ACCESS):
        whole = buffer(of)
        for flags in (0, READ_WRITE, READ_ONLY, WRITE_ONLY, HOST_READ_ONLY, HOST_WRITE_ONLY, HOST_NO_ACCESS):
            piece, code = create_sub(whole, 0, 8, flags)
            say(f"sub-buffer {flags:#x} of a buffer {of:#x}", code, hex(number(piece, 0x1101)[2]) if code == 0 else "")
    say("flags and maps of a sub-buffer", number(part, 0x1101), number(part, 0x1104, c_uint32))
    say("offset and size", number(part, 0x1108)[2] == align, number(part, 0x1102)[2] == SIZE - align)
    say("its buffer", number(part, 0x1107)[2] == parent.value, "its pointer",
        number(part, 0x1103)[2] - ctypes.addressof(host) - align)
    pointer, code = map_(part, MAP_READ | MAP_WRITE, 8, 16)
    say("map of a sub-buffer", code, pointer - ctypes.addressof(host) - align, "maps", number(part, 0x1104, c_uint32),
        number(parent, 0x1104, c_uint32))
    ctypes.memmove(pointer, b"0123456789abcdef", 16)
    say("unmap it through its buffer", unmap(parent, pointer))
    say("unmap it", unmap(part, pointer))
    read(parent, align + 8, 16)
    say("what it wrote", memory_of_ours.raw[:16], host.raw[align + 8:align + 24])
    second = sub(parent, align, align)
    third = sub(parent, 2 * align, align)
    say("copy between overlapping parts", copy(part, second, 0, 0, 8), copy(part, second, 0, align - 8, 8),
        copy(part, second, 8, 0, 8), copy(part, third, 0, 0, 8), copy(part, third, align, 0, 8),
        copy(parent, second, align, 0, 8), copy(parent, second, 0, 0, 8))


def transfers():
    b, other = buffer(), buffer(context=other_context)
    for offset, size in ((0, SIZE), (0, 0), (SIZE, 0), (SIZE, 1), (1, SIZE), (SIZE + 1, 0), (0, SIZE + 1),
                         ((1 << 64) - 1, 2), (8, (1 << 64) - 8)):
        say(f"read and write {offset} {size}", read(b, offset, size), write(b, offset, size))
    say("read and write no memory", read(b, 0, 8, NULL), write(b, 0, 8, NULL))
    say("read and write nothing", read(NULL, 0, 8), write(NULL, 0, 8))
    say("read and write without a queue", read(b, 0, 8, q=NULL), write(b, 0, 8, q=NULL))
    say("read and write in another context", read(other, 0, 8), write(other, 0, 8), read(b, 0, 8, q=other_queue))
    code = c_int32()
    foreign = c_void_p(cl.clCreateUserEvent(other_context, byref(code)))
    for wait in (events(1), events(0, foreign), events(1, foreign), events(1, c_void_p(0))):
        say("read, write, copy, fill with a wrong wait list", read(b, 0, 8, wait=wait), write(b, 0, 8, wait=wait),
            copy(b, b, 0, 64, 8, wait=wait), fill(b, memory_of_ours, 1, 0, 8, wait=wait))
    say("copies", [copy(b, b, *ranges) for ranges in (
        (0, 64, 64), (0, 63, 64), (64, 0, 64), (63, 0, 64), (0, 0, 1), (0, SIZE, 1), (SIZE, 0, 1), (0, 8, SIZE),
        (0, 1, 0), (SIZE + 1, 0, 0), ((1 << 64) - 4, 0, 8))])
    say("copies of nothing, and of another context", copy(NULL, b, 0, 0, 8), copy(b, NULL, 0, 0, 8),
        copy(b, other, 0, 0, 8), copy(other, b, 0, 0, 8), copy(b, b, 0, 64, 8, q=other_queue))
    say("fills", [fill(b, memory_of_ours, *rest) for rest in (
        (1, 0, 8), (3, 0, 9), (4, 2, 8), (4, 4, 6), (16, 0, SIZE), (128, 0, 256), (256, 0, 256), (0, 0, 8),
        (4, SIZE, 4), (4, SIZE - 4, 8), (4, 8, 0))])
    say("fills with nothing, and of nothing", fill(b, NULL, 4, 0, 8), fill(NULL, memory_of_ours, 4, 0, 8),
        fill(other, memory_of_ours, 4, 0, 8))


def rectangles():
    b, second = buffer(), buffer()
    for name, function in (("read", cl.clEnqueueReadBufferRect), ("write", cl.clEnqueueWriteBufferRect)):
        for origin, host, region, pitches in (
                ((0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 0), (0, 8, 2), (0, 0, 0, 0)),
                ((0, 0, 0), (0, 0, 0), (8, 0, 2), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 0), (8, 8, 0), (0, 0, 0, 0)),
                ((0, 0, 0), (0, 0, 0), (8, 8, 2), (4, 0, 0, 0)), ((0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 4, 0)),
                ((0, 0, 0), (0, 0, 0), (8, 8, 2), (16, 64, 0, 0)), ((0, 0, 0), (0, 0, 0), (8, 8, 2), (16, 130, 0, 0)),
                ((0, 0, 0), (0, 0, 0), (8, 8, 2), (16, 128, 0, 0)), ((0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 16, 130)),
                ((0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 16, 64)), ((8, 1, 1), (8, 1, 1), (8, 8, 2), (16, 256, 16, 256)),
                ((0, 0, 30), (0, 0, 0), (8, 8, 2), (16, 128, 0, 0)), ((0, 0, 31), (0, 0, 0), (8, 8, 2), (16, 128, 0, 0)),
                ((9, 0, 30), (0, 0, 0), (8, 8, 2), (16, 128, 0, 0)), (NULL, (0, 0, 0), (8, 8, 2), (0, 0, 0, 0)),
                ((0, 0, 0), NULL, (8, 8, 2), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 0), NULL, (0, 0, 0, 0)),
                ((0, 0, 0), (0, 0, 0), (8, 8, 1), (16, 100, 0, 0)), ((0, 0, 0), (0, 0, 0), (8, 1, 1), (16, 8, 0, 0)),
                ((0, 0, 0), (0, 0, 0), (SIZE + 1, 1, 1), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 0), (SIZE, 1, 1), (0, 0, 0, 0))):
            say(f"{name} {origin} {host} {region} {pitches}", rect(function, b, origin, host, region, pitches))
        plain = (0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 0, 0)
        say(f"{name} no memory, nothing, no queue", rect(function, b, *plain, NULL), rect(function, NULL, *plain),
            rect(function, b, *plain, q=NULL), rect(function, b, *plain, q=other_queue))
    for a, src, dst, region, pitches in (
            (second, (0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 0, 0)), (b, (0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 0, 0)),
            (b, (0, 0, 0), (8, 0, 0), (8, 8, 2), (16, 128, 16, 128)), (b, (0, 0, 0), (7, 0, 0), (8, 8, 2), (16, 128, 16, 128)),
            (b, (0, 0, 0), (8, 0, 0), (8, 8, 2), (16, 128, 16, 256)), (b, (0, 0, 0), (8, 0, 0), (8, 8, 2), (16, 128, 32, 256)),
            (b, (0, 0, 0), (0, 8, 0), (8, 8, 2), (16, 256, 16, 256)), (second, (0, 0, 0), (0, 0, 0), (8, 0, 2), (0, 0, 0, 0)),
            (second, (0, 0, 0), (0, 0, 31), (8, 8, 2), (0, 0, 16, 128)), (second, (0, 0, 31), (0, 0, 0), (8, 8, 2), (16, 128, 0, 0)),
            (second, (0, 0, 0), (0, 0, 0), (8, 8, 2), (4, 0, 0, 0)), (second, (0, 0, 0), (0, 0, 0), (8, 8, 2), (0, 0, 16, 64)),
            (second, NULL, (0, 0, 0), (8, 8, 2), (0, 0, 0, 0))):
        say(f"copy {'apart' if a is second else 'within'} {src} {dst} {region} {pitches}",
            copy_rect(a, b, src, dst, region, pitches))


def maps():
    b = buffer()
    for flags, offset, size in ((MAP_READ, 0, SIZE), (MAP_READ, 0, 0), (MAP_READ, SIZE, 1), (MAP_READ, 1, SIZE),
                                (0, 0, 8), (8, 0, 8), (MAP_READ | MAP_INVALIDATE, 0, 8), (MAP_INVALIDATE, 0, 8),
                                (MAP_WRITE | MAP_INVALIDATE, 0, 8), (MAP_READ, 0, SIZE + 1)):
        pointer, code = map_(b, flags, offset, size)
        say(f"map {flags} {offset} {size}", code, pointer is not None, number(b, 0x1104, c_uint32))
        if pointer:
            say("unmap, again", unmap(b, pointer), unmap(b, pointer), number(b, 0x1104, c_uint32))
    say("map nothing, without a queue, in another context", map_(NULL, MAP_READ, 0, 8)[1],
        map_(b, MAP_READ, 0, 8, q=NULL)[1], map_(b, MAP_READ, 0, 8, q=other_queue)[1])
    pointers = [map_(b, MAP_READ, at, 64)[0] for at in (0, 0, 32)]
    say("three maps", number(b, 0x1104, c_uint32))
    say("unmap them", [unmap(b, pointer) for pointer in pointers], number(b, 0x1104, c_uint32))
    pointer, _ = map_(b, MAP_READ, 0, 8)
    say("unmap no pointer, one inside, without a queue, of another buffer", unmap(b, 0), unmap(b, pointer + 1),
        cl.clEnqueueUnmapMemObject(NULL, b, c_void_p(pointer), *NO_EVENTS, NULL), unmap(buffer(), pointer),
        cl.clEnqueueUnmapMemObject(other_queue, b, c_void_p(pointer), *NO_EVENTS, NULL))
    say("unmap it", unmap(b, pointer))
    host = create_string_buffer(b"x" * SIZE, SIZE)
    shared = buffer(USE_HOST_PTR, SIZE, host)
    pointer, code = map_(shared, MAP_WRITE, 100, 50)
    say("map of memory of ours", code, pointer - ctypes.addressof(host), host.raw[100:104])
    ctypes.memmove(pointer, b"yyyy", 4)
    say("unmap it", unmap(shared, pointer), read(shared, 98, 8), memory_of_ours.raw[:8])
    pattern = create_string_buffer(b"z")
    say("fill, map", fill(shared, pattern, 1, 0, 200), map_(shared, MAP_READ, 0, 8)[1], host.raw[:8])


def host_access():
    for flags in (HOST_WRITE_ONLY, HOST_READ_ONLY, HOST_NO_ACCESS):
        b = buffer(flags)
        for target in (b, sub(b, 0, 64)):
            plain = (0, 0, 0), (0, 0, 0), (8, 2, 1), (0, 0, 0, 0)
            say(f"access {flags:#x}: read, write, rectangles", read(target, 0, 8), write(target, 0, 8),
                rect(cl.clEnqueueReadBufferRect, target, *plain), rect(cl.clEnqueueWriteBufferRect, target, *plain))
            codes = []
            for map_flags in (MAP_READ, MAP_WRITE, MAP_READ | MAP_WRITE, MAP_INVALIDATE):
                pointer, code = map_(target, map_flags, 0, 8)
                codes.append(code)
                if pointer:
                    codes.append(unmap(target, pointer))
            say(f"access {flags:#x}: maps", codes, "copy, fill", copy(buffer(), target, 0, 0, 8),
                fill(target, memory_of_ours, 1, 0, 8))


def migration():
    def migrate(count, list_, flags, q=queue):
        return cl.clEnqueueMigrateMemObjects(q, c_uint32(count), list_, c_uint64(flags), *NO_EVENTS, NULL)
    b, other = buffer(), buffer(context=other_context)
    one, wrong, foreign = ((c_void_p * 1)(x) for x in (b, NULL, other))
    say("migrations", [migrate(*rest) for rest in (
        (1, one, 0), (1, one, 1), (1, one, 2), (1, one, 3), (1, one, 4), (0, one, 0), (1, NULL, 0), (0, NULL, 0),
        (1, wrong, 0), (1, foreign, 0), (1, one, 0, NULL), (1, one, 0, other_queue))])


for part in (creation, sub_buffers, transfers, rectangles, maps, host_access, migration):
    print(f"== {part.__name__}")
    part()
