#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A client that stops reading costs nobody anything: other streams go on as if it were not there, its upstream waits, memory
# stays as it is, and when it reads again it gets everything. That others go on is shown by handshakes: the upstream of the
# other stream says each word only when the word before has arrived.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $TOKENS = 6_000;
my $SIZE   = 2_000;    # together more than all socket buffers on the way hold
my $ROUNDS = 60;
my $LARGE  = 200_000;

my $config = chat('/flood', 'sse?script=flood', 'ChatStreamReplay 64k 300', 'ChatStreamMaxEvent 64k', 'ChatStreamMaxAnswer 64m')
    . chat('/words', 'sse?script=words')
    . chat('/large', 'sse?script=large', 'ChatStreamReplay 1m 300')
    . chat('/document', 'sse?script=document', 'SetHandler chatstream-complete')
    . chat('/shared', 'sse?script=shared', 'ChatStreamReplay 64k 300', 'ChatStreamMaxEvent 64k', 'ChatStreamMaxAnswer 64m');

my ($t, $up, $name, %ask);

sub scripts
{
    my $x = 'x' x $SIZE;
    $up->reset;
    $up->script(flood => "token first\nrepeat $TOKENS\ntoken $x\nend\ndone\n");
    $up->script(words => join('', map { "token w$_\nwait said$_\n" } 1 .. $ROUNDS) . "done\n");
    $up->script(large => "token first\nwait go\ntoken " . 'y' x $LARGE . "\ntoken " . 'z' x $LARGE . "\nwait end\ndone\n");
    $up->script(document => "repeat 1500\ntoken $x\nend\nwait go\ndone\n");
    $up->script(shared => "token first\nrepeat $TOKENS\ntoken $x\nend\nwait end\ndone\n");
    return;
}

sub used_blocks { my $arena = $t->health->{arena}; return $arena->{blocks} - $arena->{free} }

sub resident
{
    my ($pid) = $t->children;
    return slurp("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m ? $1 : die 'no VmRSS';
}

# A stream whose client has read its first token and then nothing more, through small buffers.
sub slow { my ($path, @rest) = @_; return $t->stream("$path?message=hi", %ask, receive_buffer => 4096, @rest) }

# Another stream, all of it, word by word.
sub others_go_on
{
    my ($what) = @_;
    my ($stream, $words) = (undef, 0);
    my $went = eval {
        $stream = $t->stream('/words?message=hi', %ask);
        for my $round (1 .. $ROUNDS) {
            $words++ if ($stream->event_of('token', 20)->{json}{content} // '') eq "w$round";
            $up->signal("said$round");
        }
        $stream->event_of('complete', 20);
    };
    is $words, $ROUNDS, "$name: $what: another stream goes on, word by word" or diag $@;
    ok $went, "$name: $what: to its end";
    $stream->close if $stream;
    $up->_request(DELETE => "/_signal/said$_") for 1 .. $ROUNDS;
    return;
}

# Events to the end; true when tokens are whole and numbers have no gap. Keeps nothing, for it may be much.
sub all_there
{
    my ($stream, $after, $tokens) = @_;
    my ($expected, $count, $last) = ($after, 0, undef);
    while (my $event = $stream->next_event(30)) {
        $last = $event;
        my ($seq) = ($event->{id} // '') =~ /:(\d+)$/;
        return "event " . ($seq // 'without number') . " after $expected" if ($seq // 0) != ++$expected;
        $count++ if $event->{json}{type} eq 'token';
        substr $stream->{body}, 0, $stream->{taken}, '';
        $stream->{taken} = 0;
    }
    return "$count tokens" if $count != $tokens;
    return ($last->{json}{type} // '') eq 'complete' ? '' : "ended with $last->{data}";
}

sub test_flood
{
    my $before = resident();
    my $stream = slow('/flood');
    is $stream->event_of('token')->{json}{content}, 'first', "$name: the slow client has its first token";
    ok wait_until(sub { used_blocks() >= 31 }, 20), "$name: its log fills up";
    others_go_on('a log is full');
    is $up->count('finished'), 1, "$name: the slow client's upstream has to wait";    # the other's has not
    cmp_ok used_blocks(), '<', 60, "$name: its log keeps to its size";
    cmp_ok resident() - $before, '<', 6_000, "$name: and the server keeps nothing beside it" if !$t->httpd->{sanitized};
    is all_there($stream, 2, $TOKENS), '', "$name: everything is there when it reads again";
    ok $stream->complete, "$name: to a proper end";
    $stream->close;
    is $up->count('finished'), 2, "$name: of the upstream, too";
    return;
}

# One event that is larger than what httpd's output filter holds back.
sub test_large_events
{
    my $stream = slow('/large');
    is $stream->event_of('token')->{json}{content}, 'first', "$name: a slow client before a large event";
    $up->signal('go');
    ok wait_until(sub { used_blocks() >= 2 * $LARGE / 2048 }, 20), "$name: the large events are in its log";
    others_go_on('a large event is stuck');
    $up->signal('end');
    is length $stream->event_of('token')->{json}{content}, $LARGE, "$name: the large event is whole";
    is length $stream->event_of('token')->{json}{content}, $LARGE, "$name: the one behind it, too";
    is $stream->next_event->{json}{type}, 'complete', "$name: and the end";
    $stream->close;
    return;
}

sub test_large_document
{
    my $stream = $t->open('/document?message=hi', %ask, receive_buffer => 4096);
    # The answer is withheld until it is known to be a long one: else a request thread may serve it.
    ok wait_until(sub { ($up->count('active') // 0) == 1 }, 20), "$name: a slow client asks for a document";
    others_go_on('a document is being made');
    $up->signal('go');
    ok wait_until(sub { $up->count('finished') == 2 }, 20), "$name: the document is complete";
    others_go_on('a document is stuck');
    my $document = $stream->json(60);
    is length $document->{content} // $document->{answer} // $document->{message}, 1500 * $SIZE, "$name: the document is whole";
    $stream->close;
    return;
}

sub test_lagged
{
    my $slow = slow('/shared');
    my $first = $slow->event_of('token');
    # Only once it is stuck: before, it might be the other that is behind.
    ok wait_until(sub { used_blocks() >= 31 }, 20), "$name: a slow client has its log full";
    my $fast = $t->stream('/shared', %ask, headers => { 'Last-Event-ID' => $first->{id} });
    is $fast->status, 200, "$name: a second reader beside the slow one";
    my $event = $fast->next_event(30);
    my $seen = $event->{json}{type} eq 'gap' ? $event->{json}{to} : 3;
    my $wrong = 0;
    while ($seen < $TOKENS + 2) {
        $event = eval { $fast->event_of('token', 30) } or last;
        $wrong++ if $event->{id} !~ /:@{[ ++$seen ]}$/;
        substr $fast->{body}, 0, $fast->{taken}, '';
        $fast->{taken} = 0;
    }
    is $seen, $TOKENS + 2, "$name: it has everything, whatever the slow one does";
    is $wrong, 0, "$name: each once and in order";

    my ($last, $count, $end) = ($first, 0, undef);
    while (my $event = $slow->next_event(30)) {
        $end = $event;
        last if $event->{json}{type} ne 'token';
        $last = $event;
        $count++;
    }
    cmp_ok $count, '<', $TOKENS, "$name: the slow one gets what there was";
    is $end->{json}{code}, 'lagged', "$name: and then that it was too slow";
    ok $end->{json}{retryable}, "$name: it may come back";
    ok !defined $end->{id}, "$name: from the last event it has";
    is $slow->next_event, undef, "$name: nothing follows";

    my $again = $t->stream('/shared', %ask, headers => { 'Last-Event-ID' => $last->{id} });
    is $again->status, 200, "$name: it comes back";
    my $gap = $again->next_event;
    my ($from) = $last->{id} =~ /:(\d+)$/;
    is $gap->{json}{type}, 'gap', "$name: and is told";
    is $gap->{json}{from}, $from + 1, "$name: from where";
    $up->signal('end');
    is all_there($again, $gap->{json}{to}, $TOKENS + 2 - $gap->{json}{to}), '', "$name: to where the rest begins";
    is $fast->event_of('complete', 20)->{json}{type}, 'complete', "$name: the fast one has its end, too";
    $_->close for $slow, $fast, $again;
    return;
}

my @setups = (
    { name => 'event',  server => { mpm => 'event' } },
    { name => 'TLS',    server => { mpm => 'event', tls => 1 }, ask => { tls => 1 } },
    { name => 'worker', server => { mpm => 'worker' } },
);

for my $setup (@setups) {
    $name = $setup->{name};
    %ask = %{ $setup->{ask} || {} };
    # Small buffers on our side: what does not fit is the module's affair.
    $t = ChatStream::Test->new(config => $config, server_config => "SendBufferSize 16384\n", %{ $setup->{server} });
    $up = $t->upstream;
    for my $test (\&test_flood, \&test_large_events, \&test_large_document, \&test_lagged) {
        scripts();
        $test->();
    }
    $t->check;
}
done_testing();
