#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# chat_messages: what was asked and answered, to the letter, whole or marked as partial, and only where transcript is on. Where it
# is off no file has a word of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use File::Find ();
use POSIX ();

my $RECORD = 'ChatStreamRecord sessions transcript audit';

sub complete { return chat(@_) =~ s/SetHandler chatstream$/SetHandler chatstream-complete/mr }

my $config = patient()
    . chat('/chat', 'sse?tokens=40&size=24&text=utf8&split=7', $RECORD)
    . chat('/echo', 'sse?script=echo', $RECORD)
    . chat('/bytes', 'x', $RECORD, 'ChatStreamUpstream "${UPSTREAM}/text?script=bytes" dialect=text')
    . chat('/openai', 'x', $RECORD, 'ChatStreamUpstream "${UPSTREAM}/openai?tokens=20" dialect=openai', 'ChatStreamModel m')
    . chat('/raw', 'sse?tokens=40&size=24&text=utf8&split=7', $RECORD, 'ChatStreamFormat raw')
    . chat('/cut', 'sse?script=cut', $RECORD)
    . chat('/total', 'sse?script=stall', $RECORD, 'ChatStreamTimeout 200ms headers=900 first-token=900 idle=900')
    . chat('/stall', 'sse?script=stall', $RECORD, 'ChatStreamOnDisconnect abort 100ms')
    . chat('/stop', 'sse?script=stall', $RECORD)
    . chat('/raw-stall', 'sse?script=stall', $RECORD, 'ChatStreamFormat raw')
    . chat('/500', 'sse?status=500', $RECORD)
    . chat('/large', 'sse?tokens=900&size=1000', $RECORD)
    . chat('/dropped', 'sse?tokens=900&size=1000', $RECORD, 'ChatStreamReplay 8k', 'ChatStreamMaxEvent 16k')
    . chat('/small', 'sse?tokens=50&size=100', $RECORD, 'ChatStreamMaxAnswer 1k')
    . chat('/backup', 'x', $RECORD, 'ChatStreamUpstream "${UPSTREAM}/sse?script=fails"', 'ChatStreamUpstream "${UPSTREAM}/sse?tokens=3" backup')
    . complete('/whole', 'sse?tokens=6', $RECORD)
    . chat('/alone', 'sse?tokens=3', 'ChatStreamRecord transcript')
    . chat('/off', 'sse?script=echo', 'ChatStreamRecord sessions audit')
    . chat('/off-cut', 'sse?script=cut', 'ChatStreamRecord sessions audit')
    . chat('/none', 'sse?script=echo', 'ChatStreamRecord off');

my ($t, $up, $name);
binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output todo_output);

sub scripts
{
    $up->reset;
    $up->script(cut   => "token one ANSWERED\ntoken  two\nwait seen\ncut\n");
    $up->script(stall => "token one\ntoken  two\nstall\n");
    $up->script(fails => "status 503\nsend data: {\"token\":\"of the first\"}\\n\\n\n");
    $up->script(bytes => 'send a\xff\xfeb\xed\xa0\x80c\x00d' . "\n");
    $up->script(echo => <<'X');
send data: {"token":"\\"A\\u20ac\\n\\ud83d\\ude00"}\n\n
token ANSWERED
done
X
    return;
}

# Finished, with its messages: (row, user's, assistant's).
sub messages_of
{
    my ($id) = @_;
    my $row = $t->session($id);
    my @messages = $t->database->query('SELECT * FROM chat_messages WHERE session_id = ? ORDER BY role DESC', $id);
    my %by = map { $_->{role} => $_ } @messages;
    is scalar @messages, scalar keys %by, "$name: one message of each role" if @messages != keys %by;
    return ($row, @by{qw(user assistant)});
}

sub said { return join '', map { ref $_->{json} && ($_->{json}{type} // '') eq 'token' ? $_->{json}{content} : '' } @_ }

# One stream and what became of it: its client's answer, and what the database has.
sub transcribed
{
    my ($path, $what, $status, $partial, %options) = @_;
    my $message = delete $options{message} // 'a question';
    my ($during, $odd) = (delete $options{during}, delete $options{odd});
    my $stream = $t->stream($path, json => { message => $message, %{ delete $options{json} || {} } }, %options);
    my $id = $stream->header('x-stream-id');
    my @events;
    if ($during) {
        push @events, $stream->event_of('token') for 1 .. 2;
        $during->($stream, $id);
    }
    push @events, $stream->events if $stream->socket;
    my $answer = $path eq '/whole' ? $stream->json->{content} // $stream->json->{message} : said(@events);
    $stream->close;
    my ($row, $user, $assistant) = messages_of($id);
    is $row->{status}, $status, "$name: $what: $status";
    ok $row->{db_saved}, "$name: $what: saved";
    ok defined $user, "$name: $what: the question" or return;
    is $user->{content}, $message, "$name: $what: to the letter";
    is $user->{id}, "$id:user", "$name: $what: its id";
    is $user->{user_key}, $row->{user_key}, "$name: $what: of the same user";
    ok !$user->{partial}, "$name: $what: whole";
    ok defined $assistant, "$name: $what: the answer" or return;
    is $assistant->{content}, $answer, "$name: $what: as its client read it" if defined $answer && $path !~ /raw|bytes/ && !$odd;
    is !!$assistant->{partial}, !!$partial, "$name: $what: " . ($partial ? 'marked as partial' : 'whole');
    is $assistant->{id}, "$id:assistant", "$name: $what: its id";
    is $assistant->{user_key}, $row->{user_key}, "$name: $what: of the same user, too";
    is $assistant->{conversation_id}, $user->{conversation_id}, "$name: $what: in the same conversation";
    return ($assistant, $user, $row);
}

my %messages = (
    plain    => 'hi',
    quotes   => q(it's "so" `and` \\ back\\\\slash \\'),
    lines    => "one\r\ntwo\n\tthree\n",
    utf8     => "Gr\x{fc}\x{df}e, \x{4f60}\x{597d}, \x{20ac}, e\x{301}",
    emoji    => "\x{1f600}\x{1f469}\x{200d}\x{1f4bb} \x{1f1e9}\x{1f1ea}",
    odd      => "\x{10ffff}\x{fffd}\x{feff}\x{2028}",
    sql      => q('; DROP TABLE chat_messages; -- $1 ? :a %s %d {"a":1}),
    long     => "\x{e4}bc'\x{1f600}\\" x 3000,
    'just 0' => '0',
);

sub whole_and_partial
{
    scripts();
    for my $what (sort keys %messages) {
        transcribed('/chat', "message, $what", 'completed', 0, message => $messages{$what});
    }
    my ($answer, $question) = transcribed('/chat', 'a conversation', 'completed', 0, json => { conversation_id => "c-\x{fc}1" });
    is $question->{conversation_id}, "c-\x{fc}1", "$name: in its conversation";
    ($answer, $question) = transcribed('/chat', 'no conversation', 'completed', 0);
    is $question->{conversation_id}, undef, "$name: in none";
    my ($assistant) = transcribed('/raw', 'raw', 'completed', 0);
    is $assistant->{content}, $answer->{content}, "$name: raw: the text, not the events";
    transcribed('/openai', 'openai', 'completed', 0);
    ($assistant) = transcribed('/whole', 'as a document', 'completed', 0);
    transcribed('/echo', 'escapes', 'completed', 0);
    ($assistant) = transcribed('/large', '900 KB', 'completed', 0);
    is length $assistant->{content}, 900_000, "$name: all of them";
    ($assistant) = transcribed('/dropped', '900 KB, of which the log keeps 8', 'completed', 0);
    is length $assistant->{content}, 900_000, "$name: all of them as well";
    ($assistant) = transcribed('/backup', 'failover', 'completed', 0);
    unlike $assistant->{content}, qr/of the first/, "$name: failover: of the backup alone";

    ($assistant) = transcribed('/cut', 'cut', 'error', 1, during => sub { $up->signal('seen') });
    is $assistant->{content}, 'one ANSWERED two', "$name: cut: all that was said";
    transcribed('/total', 'timeout', 'timeout', 1);
    transcribed('/stall', 'cancelled', 'cancelled', 1, during => sub { $t->request("/stall?stream_id=$_[1]", method => 'DELETE') });
    transcribed('/stall', 'disconnected', 'disconnected', 1, during => sub { $_[0]->abort });
    ($assistant) = transcribed('/small', 'too large', 'error', 1);
    cmp_ok length($assistant->{content}), '<=', 1024, "$name: no longer than ChatStreamMaxAnswer";
    my $stream = $t->stream('/raw-stall?message=hi');
    $stream->event for 1 .. 2;
    $t->request('/raw-stall?stream_id=' . $stream->header('x-stream-id'), method => 'DELETE');
    ($assistant) = (messages_of($stream->header('x-stream-id')))[2];
    is $assistant->{content}, 'one two', "$name: raw, partial";
    ok $assistant->{partial}, "$name: raw, partial: and marked";
    $stream->close;

    # No answer is none, not an empty one.
    $t->request('/500', json => { message => 'asked in vain' });
    ok $t->records_settled, "$name: settled";
    my ($row) = $t->database->query("SELECT * FROM streaming_sessions WHERE profile = '/500'");
    my (undef, $user, $none) = messages_of($row->{id});
    is $user->{content}, 'asked in vain', "$name: no answer: the question is kept";
    is $none, undef, "$name: no answer";
    ok $row->{db_saved}, "$name: no answer: saved";

    my $id = $t->request('/alone?message=only+that')->header('x-stream-id');
    ok wait_until(sub { $t->database->value('SELECT count(*) FROM chat_messages WHERE session_id = ?', $id) == 2 }, 20),
        "$name: messages without a session";
    is $t->database->value('SELECT count(*) FROM streaming_sessions WHERE id = ?', $id), 0, "$name: which has no row";
    return;
}

# What no database likes. A character that cannot be stored must not cost the row, nor those of its neighbours.
sub unfit
{
    scripts();
    # A NUL, and half a character.
    $up->script(echo => <<'X');
send data: {"token":"x\\u0000y\\ud800z"}\n\n
done
X
    # What stands for them is the module's to say.
    my ($assistant) = transcribed('/echo', 'a NUL in the answer', 'completed', 0, odd => 1);
    like $assistant->{content} // '', qr/^x.*y.*z$/s, "$name: a NUL in the answer: the rest of it";
    ($assistant) = transcribed('/bytes', 'no UTF-8', 'completed', 0);
    like $assistant->{content} // '', qr/^a.+b.+c.*d$/s, "$name: no UTF-8: the rest of it";
    my $answer = $t->request('/echo', json => { message => "a\x{0}b" });
    if ($answer->status == 200) {
        my ($row, $user) = messages_of($answer->header('x-stream-id'));
        like $user->{content} // '', qr/^a.?b$/s, "$name: a NUL in the question";
    }
    else {
        is $answer->status, 400, "$name: a NUL in the question is refused";
    }
    return;
}

# ---- in one transaction --------------------------------------------------------------------------------------------------------

sub together
{
    my $done = $t->dir . '/together';
    unlink $done;
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        eval { $t->request('/chat?message=hi') for 1 .. 150; 1 } or print STDERR $@;
        open my $file, '>', $done;
        POSIX::_exit(0);
    }
    my ($looks, $early, $late) = (0, 0, 0);
    while (!-e $done || !$t->records_settled(1)) {
        for (1 .. 20) {
            my ($seen) = $t->database->query(<<'END');
SELECT sum(CASE WHEN s.status = 'active' AND a.id IS NOT NULL THEN 1 ELSE 0 END) AS early,
    sum(CASE WHEN s.status = 'completed' AND (a.id IS NULL OR NOT (s.db_saved = (1 = 1))) THEN 1 ELSE 0 END) AS late
FROM streaming_sessions s LEFT JOIN chat_messages a ON a.session_id = s.id AND a.role = 'assistant'
WHERE s.profile = '/chat'
END
            $looks++;
            $early += $seen->{early} // 0;
            $late += $seen->{late} // 0;
        }
        last if -e $done && $looks > 100_000;
    }
    waitpid $pid, 0;
    is $late, 0, "$name: never is a stream finished without its answer, in $looks looks";
    is $early, 0, "$name: nor the answer there before";
    return;
}

# ---- off -----------------------------------------------------------------------------------------------------------------------

# Files below the test's directory that have one of these words; the database's own too.
sub files_with
{
    my ($pattern) = @_;
    my @found;
    File::Find::find({ no_chdir => 1, wanted => sub { push @found, $_ if -f && (slurp($_) // '') =~ $pattern } }, $t->dir);
    return @found;
}

sub off
{
    scripts();
    my $word = qr/PLANTED|ANSWERED/;
    my @planted = (
        sub { $t->request('/off?message=PLANTED-query') },
        sub { $t->request('/off', json => { message => 'PLANTED json', conversation_id => 'c1',
            conversation_history => [ { role => 'user', content => 'PLANTED history' } ] }) },
        sub { $up->signal('seen'); $t->request('/off-cut?message=PLANTED-cut') },
        sub { $t->request('/none?message=PLANTED-none') },
    );
    # The journal alone has them while the database sleeps.
    $t->database->freeze;
    my @answers = map { $_->() } @planted, @planted;
    is join(' ', map { $_->status } @answers), '200 200 200 200 200 200 200 200', "$name: off: they are streamed";
    cmp_ok $t->open_streams + $t->waiting_facts, '>', 0, "$name: off: the journal has them";
    is join(' ', files_with($word)), '', "$name: off: not a word of them in any file";
    $t->database->thaw;
    ok $t->records_settled(60), "$name: off: settled";
    is join(' ', files_with($word)), '', "$name: off: nor when they are in the database";
    is $t->database->value('SELECT count(*) FROM chat_messages'), 0, "$name: off: no messages";
    is $t->database->value('SELECT count(*) FROM streaming_sessions'), 6, "$name: off: six sessions";
    is $t->database->value('SELECT count(*) FROM streaming_sessions WHERE db_saved = (1 = 1)'), 0, "$name: off: none of them saved";

    return;
}

# Where transcript is on they are in the database alone, some seconds after they are there.
sub on
{
    scripts();
    $t->request('/echo?message=PLANTED');
    ok $t->records_settled(60), "$name: on: settled";
    my @found;
    wait_until(sub { @found = grep { !m{/db-} } files_with(qr/PLANTED|ANSWERED/); !@found }, 60);
    is "@found", '', "$name: on: no word outside of the database for long";
    return;
}

for my $kind (qw(sqlite3 pgsql mysql)) {
    $name = $kind;
    # Nothing of the simulator's says what it was asked.
    $t = ChatStream::Test->new(database => $kind, children => 2, config => $config, log_level => 'debug');
    $up = $t->upstream;
    $t->allow_log(qr/ended as (?:error|timeout)|trying the next one/);
    off();
    whole_and_partial();
    unfit();
    together();
    on();
    scripts();
    my $stream = $t->stream('/stop?message=hi');
    $stream->event_of('token') for 1 .. 2;
    $t->stop;
    my ($row, $user, $assistant) = messages_of($stream->header('x-stream-id'));
    is $assistant->{content}, 'one two', "$name: at the end of the server: what was said";
    ok $assistant->{partial}, "$name: at the end of the server: as partial";
    $t->check;
}
done_testing();
