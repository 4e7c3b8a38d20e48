"""The link: a byte stream on one side, the four streams of the core on the other."""

from amaranth import *
from amaranth.lib import crc, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out, connect

from reticent.config import BuildConfig
from reticent.layout import INDEX_BITS, LANE_SHIFT, SPACE_SHIFT, WORD_BITS, Space
from reticent.link.pixels import MOST, REPEAT, REST, VALUES
from reticent.link.protocol import (
    ADDRESS,
    COUNT,
    FINAL,
    HEADER_BYTES,
    LINK_SPACE,
    LINK_WORDS,
    REPLY_BIT,
    TAG_WORDS,
    WIDTH,
    LinkWord,
    Request,
    Status,
    link_words,
)

from ..interfaces import command_stream, pixel_stream, result_stream
from .receiver import RequestReceiver
from .register import StreamRegister
from .replier import Replier

__all__ = ["PATIENCE", "Link"]

PATIENCE = 24  # the core may take 2**PATIENCE cycles for a word, then it counts as stuck


class Link(wiring.Component):
    """Executes requests one after the other, and answers each.

    A request is executed once, however often it comes: the one that has the last sequence number
    gets the stored reply again, any other but the next number is dropped. Before HELLO and after a
    reset everything else is refused, so that a driver cannot miss a reset. A core that takes or
    gives no word in 2**PATIENCE cycles is reset, and so is the session.

    The bytes may come over anything: a serial port, USB, SPI, Ethernet. They are moved by plain
    ready/valid streams; a request's bytes are taken one a cycle, and executed one in three cycles.
    A word to check takes as long as the core's reading of it, and three cycles.

    Parameters
    ----------
    config : the build
    name : of the board, up to 16 ASCII characters
    clock, baud : Hz and bit/s, to be told to the driver; baud 0 where there is no serial port
    request_bytes, reply_bytes : longest request and reply before COBS; the first a power of two

    Members
    -------
    received, sent : bytes from and to the host
    lost, broken : one cycle for each byte that the receiving side lost or refused; only counted
    commands, replies, pixels, results : of the core
    core_reset : reset the core
    session : a driver has said HELLO
    busy : a request is being executed or answered
    """

    def __init__(
        self,
        config: BuildConfig,
        *,
        name: str,
        clock: int,
        baud: int,
        request_bytes: int = 1024,
        reply_bytes: int = 512,
        patience: int = PATIENCE,
    ):
        self.config, self.clock, self.baud = config, clock, baud
        self._sizes = request_bytes, reply_bytes
        self._patience = patience
        self._constants = {
            **link_words(config, name),
            LinkWord.CLOCK: clock,
            LinkWord.BAUD: baud,
            LinkWord.REQUEST_BYTES: request_bytes,
            LinkWord.REPLY_BYTES: reply_bytes,
        }
        super().__init__(
            {
                "received": In(stream.Signature(8)),
                "sent": Out(stream.Signature(8)),
                "lost": In(1),
                "broken": In(1),
                "commands": Out(command_stream),
                "replies": In(stream.Signature(unsigned(WORD_BITS))),
                "pixels": Out(pixel_stream),
                "results": In(result_stream),
                "core_reset": Out(1),
                "session": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        request_bytes, reply_bytes = self._sizes
        m.submodules.receiver = receiver = RequestReceiver(request_bytes)
        m.submodules.replier = replier = Replier(reply_bytes)
        connect(m, wiring.flipped(self.received), receiver.bytes)
        connect(m, replier.bytes, wiring.flipped(self.sent))
        m.submodules.content = register = StreamRegister(8)
        connect(m, register.behind, replier.content)
        payload, content = receiver.payload, register.before
        # The replier hears of them a cycle later, before the next byte is there.
        begin, finish = Signal(), Signal()
        m.d.sync += [replier.begin.eq(begin), replier.finish.eq(finish)]

        # Words of the link itself.
        counted = {
            LinkWord.RECEIVED: receiver.intact,
            LinkWord.DAMAGED: receiver.damaged,
            LinkWord.REPEATED: Signal(name="repeated"),
            LinkWord.STRAY: Signal(name="stray"),
            LinkWord.LOST: self.lost,
            LinkWord.LINE: self.broken,
            LinkWord.STUCK: Signal(name="stuck"),
        }
        words = dict(self._constants)
        for word, event in counted.items():
            words[word] = counter = Signal(WORD_BITS, name=f"count_{word.name.lower()}")
            happened = Signal(name=f"happened_{word.name.lower()}")
            m.d.sync += [happened.eq(event), counter.eq(counter + happened)]
        # A reset does not clear the boot counter; it is what the reset makes it count.
        words[LinkWord.BOOT] = boot = Signal(WORD_BITS, reset_less=True)
        woken = Signal(init=1)
        m.d.sync += [woken.eq(self.core_reset), boot.eq(boot + (woken & ~ResetSignal()))]
        tag = Array(Signal(WORD_BITS, name=f"tag_{i}") for i in range(TAG_WORDS))
        words.update({LinkWord.TAG + i: value for i, value in enumerate(tag)})
        assert sorted(words) == list(range(LINK_WORDS))

        # The request at hand.
        following = Signal(32)  # sequence number of the next request
        status = Signal(Status)
        kind = receiver.kind
        index = Signal(range(max(HEADER_BYTES, LINK_WORDS) + 1))
        address = Signal(8 * ADDRESS)
        width, left = Signal(8 * WIDTH), Signal(8 * COUNT)
        # A cycle later: an address is there for longer before it is used.
        is_link, of_tag = Signal(), Signal(TAG_WORDS)
        m.d.sync += [
            is_link.eq(address[SPACE_SHIFT:] == LINK_SPACE),
            of_tag.eq(Cat(address[:INDEX_BITS] == LinkWord.TAG + i for i in range(TAG_WORDS))),
        ]
        word, bytes_left = Signal(WORD_BITS), Signal(range(WORD_BITS // 8 + 1))
        # A cycle later: bytes of a payload are further apart.
        ends_word, none_left = Signal(), Signal()
        m.d.sync += [ends_word.eq(index + 1 == width), none_left.eq(left == 0)]
        final, last = Signal(), Signal()  # part of the frame, word of the result
        token = Signal(8)

        # A choice of many, so it follows three cycles later: first among some, then among these.
        link_word, link_index, some = Signal(WORD_BITS), Signal.like(index), 8
        choices = [Signal(WORD_BITS, name=f"link_words_{i}") for i in range(-(-LINK_WORDS // some))]
        m.d.sync += link_index.eq(Mux(kind == Request.HELLO, index, address[: len(index)]))
        for i, choice in enumerate(choices):
            with m.Switch(link_index[: (some - 1).bit_length()]):
                for number in range(some * i, min(some * (i + 1), LINK_WORDS)):
                    with m.Case(number % some):
                        m.d.sync += choice.eq(words[number])
        with m.Switch(link_index[(some - 1).bit_length() :]):
            for i, choice in enumerate(choices):
                with m.Case(i):
                    m.d.sync += link_word.eq(choice)

        # What the core took, or what it read back, as a digest.
        m.submodules.digest = digest = crc.Processor(CRC32_ISO_HDLC(data_width=2 * WORD_BITS))
        writing, issued = Signal(), Signal()
        m.d.comb += [
            self.commands.p.data.eq(word),
            self.commands.p.index.eq(address[:INDEX_BITS]),
            self.commands.p.lane.eq(address[LANE_SHIFT:SPACE_SHIFT]),
            self.commands.p.space.eq(address[SPACE_SHIFT:]),
            self.commands.p.write.eq(writing),
            issued.eq(is_link | (self.commands.valid & self.commands.ready)),
            self.busy.eq(receiver.held | replier.busy | replier.finish),
        ]

        # A cycle later, for its logic is deep.
        digested = Signal()
        m.d.sync += digest.data.eq(Cat(address, word))
        start_digest = Signal()
        m.d.sync += [digest.valid.eq(digested), digest.start.eq(start_digest)]

        # Waiting for the core.
        waiting, waited = Signal(), Signal(self._patience)
        overdue = Signal()
        m.d.comb += overdue.eq(waiting & waited.all())
        m.d.sync += [waited.eq(Mux(waiting, waited + 1, 0)), self.core_reset.eq(0)]

        def wait() -> None:
            """Wait for the core in this cycle; what the state does next takes precedence."""
            m.d.comb += waiting.eq(1)
            with m.If(overdue):
                m.next = "stuck"

        def refuse(why: Status) -> None:
            m.d.sync += status.eq(why)
            m.next = "status"

        def send_word(then: str) -> None:
            """Append `word`, which is set in this cycle, to the reply."""
            m.d.sync += bytes_left.eq(WORD_BITS // 8)
            m.next = f"send for {then}"
            sent_for.append(then)

        sent_for: list[str] = []

        def collect(target: Signal, then: str) -> None:
            """Fill `target` from the payload, lowest byte first; `index` counts."""
            with m.If(payload.valid):
                m.d.comb += payload.ready.eq(1)
                m.d.sync += [target.eq(Cat(target[8:], payload.payload)), index.eq(index + 1)]
                with m.If(index == len(target) // 8 - 1):
                    m.d.sync += index.eq(0)
                    m.next = then
            with m.Elif(~receiver.more):
                refuse(Status.MALFORMED)

        # What kind of request it is, once it is held for a cycle.
        compared, hello, expected, repeated = (
            Signal(name=n) for n in ("compared", "hello", "expected", "repeated")
        )
        m.d.sync += [
            compared.eq(receiver.held & ~receiver.release),
            hello.eq(kind == Request.HELLO),
            expected.eq(receiver.sequence == following),
            repeated.eq(receiver.sequence + 1 == following),
        ]

        with m.FSM(name="executor"):
            with m.State("idle"):
                # An answer that nobody waits for any more.
                m.d.comb += self.replies.ready.eq(1)
                m.d.sync += [status.eq(Status.OK), index.eq(0)]
                with m.If(receiver.held & compared & ~replier.busy):
                    with m.If(hello | ~self.session | expected):
                        m.d.comb += begin.eq(1)
                        with m.If(hello | self.session):
                            m.d.sync += following.eq(receiver.sequence + 1)
                        with m.If(hello):
                            m.d.sync += self.session.eq(1)
                        with m.Elif(~self.session):
                            m.d.sync += status.eq(Status.NO_SESSION)
                        m.next = "header"
                    with m.Else():
                        m.d.comb += [
                            receiver.release.eq(1),
                            replier.again.eq(repeated),
                            counted[LinkWord.REPEATED].eq(repeated),
                            counted[LinkWord.STRAY].eq(~repeated),
                        ]

            with m.State("header"):
                m.d.comb += [
                    content.valid.eq(1),
                    content.payload.eq(
                        Cat(kind | REPLY_BIT, receiver.sequence).word_select(index, 8)
                    ),
                    start_digest.eq(1),
                ]
                with m.If(content.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == HEADER_BYTES - 1):
                        m.d.sync += index.eq(0)
                        with m.If(status != Status.OK):
                            m.next = "status"
                        with m.Else():
                            with m.Switch(kind):
                                with m.Case(Request.HELLO):
                                    m.next = "greet"
                                with m.Case(Request.WRITE):
                                    m.next = "run"
                                with m.Case(Request.READ, Request.CHECK):
                                    m.next = "read address"
                                with m.Case(Request.FRAME):
                                    m.next = "flags"
                                with m.Default():
                                    refuse(Status.UNKNOWN)

            with m.State("greet"):  # `link_word` follows `index` three cycles later
                m.next = "greet on"
            with m.State("greet on"):
                m.next = "greet still"
            with m.State("greet still"):
                m.next = "hello"
            with m.State("hello"):
                m.d.sync += [word.eq(link_word), index.eq(index + 1)]
                with m.If(index == LINK_WORDS):
                    m.next = "status"
                with m.Else():
                    send_word("hello")

            # WRITE: runs of words.
            with m.State("run"):
                with m.If(receiver.more | (index != 0)):
                    collect(address, "width")
                with m.Else():
                    m.d.sync += word.eq(digest.crc)
                    send_word("status")
            with m.State("width"):
                collect(width, "count")
            with m.State("count"):
                collect(left, "count down")
            with m.State("count down"):  # `none_left` follows `left` in the next cycle
                m.next = "word"
            with m.State("word"):
                with m.If(none_left):
                    m.next = "run"
                with m.Elif(payload.valid):
                    m.d.comb += payload.ready.eq(1)
                    m.d.sync += [word.word_select(index[:2], 8).eq(payload.payload)]
                    # Whatever is above the bytes of this run is zero.
                    with m.If(index == 0):
                        m.d.sync += word[8:].eq(0)
                    with m.If(ends_word):
                        m.d.sync += index.eq(0)
                        m.next = "write"
                    with m.Elif(index == WORD_BITS // 8 - 1):
                        refuse(Status.MALFORMED)
                    with m.Else():
                        m.d.sync += index.eq(index + 1)
                with m.Elif(~receiver.more):
                    refuse(Status.MALFORMED)
            with m.State("write"):
                wait()
                m.d.comb += [
                    writing.eq(1),
                    self.commands.valid.eq(~is_link),
                    digested.eq(issued),
                ]
                with m.If(issued):
                    m.d.comb += waiting.eq(0)
                    m.d.sync += [
                        left.eq(left - 1),
                        address[:INDEX_BITS].eq(address[:INDEX_BITS] + 1),
                    ]
                    with m.If(is_link):
                        for i in range(TAG_WORDS):
                            with m.If(of_tag[i]):
                                m.d.sync += tag[i].eq(word)
                    with m.Elif(address[SPACE_SHIFT:] != Space.REGISTER):
                        m.d.sync += [value.eq(0) for value in tag]
                    m.next = "count down"

            # READ: words at consecutive addresses. CHECK: runs of them, of which only the digest is
            # sent.
            with m.State("read address"):
                collect(address, "read count")
            with m.State("read count"):
                collect(left, "count reads")
            with m.State("count reads"):
                m.next = "read"
            checks = kind == Request.CHECK
            with m.State("read"):
                with m.If(none_left):
                    with m.If(~checks):
                        m.next = "status"
                    with m.Elif(receiver.more):
                        m.next = "read address"
                    with m.Else():
                        m.next = "sum"
                with m.Else():
                    wait()
                    m.d.comb += self.commands.valid.eq(~is_link)
                    with m.If(issued):
                        m.d.comb += waiting.eq(0)
                        m.next = "answer"
                    with m.If(is_link):
                        m.next = "look up"
            with m.State("look up"):
                m.next = "look on"
            with m.State("look on"):
                m.next = "answer"
            with m.State("answer"):
                wait()
                m.d.comb += self.replies.ready.eq(~is_link)
                with m.If(is_link | self.replies.valid):
                    m.d.comb += waiting.eq(0)
                    m.d.sync += [
                        word.eq(Mux(is_link, link_word, self.replies.payload)),
                        left.eq(left - 1),
                    ]
                    with m.If(checks):
                        m.next = "check"
                    with m.Else():
                        m.d.sync += address[:INDEX_BITS].eq(address[:INDEX_BITS] + 1)
                        send_word("read")
            with m.State("check"):
                m.d.comb += digested.eq(1)
                m.d.sync += address[:INDEX_BITS].eq(address[:INDEX_BITS] + 1)
                m.next = "read"
            with m.State("sum"):  # the digest is a cycle behind
                m.d.sync += word.eq(digest.crc)
                send_word("status")

            # FRAME: tokens become pixels.
            with m.State("flags"):
                with m.If(payload.valid):
                    m.d.comb += payload.ready.eq(1)
                    m.d.sync += final.eq((payload.payload & FINAL) != 0)
                    m.next = "token"
                with m.Elif(~receiver.more):
                    refuse(Status.MALFORMED)
            with m.State("token"):
                m.d.sync += token.eq(payload.payload)
                with m.If(payload.valid):
                    m.d.comb += payload.ready.eq(1)
                    m.next = "pixels"
                with m.Elif(~receiver.more):
                    with m.If(final):
                        m.next = "result"
                    with m.Else():
                        m.next = "status"
            with m.State("pixels"):
                # A token's lower bits count down to zero, its upper bits stay.
                count, kind_of_token = token[: (MOST - 1).bit_length()], token & -MOST
                repeat = kind_of_token == REPEAT
                values = repeat | (kind_of_token == VALUES)
                wait()
                m.d.comb += [
                    self.pixels.valid.eq(~values | payload.valid),
                    self.pixels.p.value.eq(Mux(values, payload.payload, 0)),
                    self.pixels.p.same.eq(~values),
                    self.pixels.p.rest.eq(kind_of_token == REST),
                    payload.ready.eq(values & self.pixels.ready & (~repeat | (count == 0))),
                ]
                with m.If(self.pixels.valid & self.pixels.ready):
                    m.d.comb += waiting.eq(0)
                    m.d.sync += token.eq(token - 1)
                    with m.If(count == 0):
                        m.next = "token"
                with m.Elif(values & ~receiver.more):
                    refuse(Status.MALFORMED)
            with m.State("result"):
                wait()
                m.d.comb += self.results.ready.eq(1)
                with m.If(self.results.valid):
                    m.d.comb += waiting.eq(0)
                    m.d.sync += [word.eq(self.results.p.data), last.eq(self.results.p.last)]
                    send_word("next")
            with m.State("next"):
                with m.If(last):
                    m.next = "status"
                with m.Else():
                    m.next = "result"

            for then in dict.fromkeys(sent_for):
                with m.State(f"send for {then}"):
                    m.d.comb += [content.valid.eq(1), content.payload.eq(word[:8])]
                    with m.If(content.ready):
                        m.d.sync += [word.eq(word >> 8), bytes_left.eq(bytes_left - 1)]
                        with m.If(bytes_left == 1):
                            m.next = then

            with m.State("status"):
                m.d.comb += [content.valid.eq(1), content.payload.eq(status)]
                with m.If(content.ready):
                    m.next = "finish"
            with m.State("finish"):
                # The reply that does not fit is replaced by one that says so.
                with m.If(content.ready & replier.content.ready):
                    with m.If(replier.overflow):
                        m.d.comb += begin.eq(1)
                        m.d.sync += [status.eq(Status.TOO_LONG), index.eq(0)]
                        m.next = "header"
                    with m.Else():
                        m.d.comb += [finish.eq(1), receiver.release.eq(1)]
                        m.next = "idle"

            with m.State("stuck"):
                m.d.comb += counted[LinkWord.STUCK].eq(1)
                m.d.sync += [
                    self.core_reset.eq(1),
                    self.session.eq(0),
                    *(value.eq(0) for value in tag),
                ]
                refuse(Status.NO_ANSWER)
        return m
