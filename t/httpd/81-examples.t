#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The records of the examples: chat.conf keeps them in SQLite as it is, and in PostgreSQL when two lines are changed;
# bali-zero.conf keeps no text; the demo has them and leaves nothing behind; chatstreamctl turns the flag as the documents say.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Database;
use ChatStream::Process;
use ChatStream::Test;

my $STREAM = '/api/v1/chat/stream';
my $ctl = $ENV{CHATSTREAM_CTL} || build_dir() . '/chatstreamctl';
my $sanitized;
my @fixture = (start => 0, bare => 1, children => 2, threads => 64, env => { ENABLE_STREAMING => 'true' });
delete @ENV{qw(CHATSTREAM_DB CHATSTREAM_FLAG_FILE)};

# A server with one of the examples; $change is applied to its text.
sub with_example
{
    my ($name, $modules, $defines, $change) = @_;
    my $t = ChatStream::Test->new(@fixture, modules => [ 'authz_host', 'remoteip', @$modules ]);
    $sanitized = $t->httpd->{sanitized};
    my $file = source_dir() . "/conf/examples/$name.conf";
    if ($change) {
        my $text = slurp($file);
        my $changed = $change->($t, $text);
        $file = $t->dir . "/conf/$name.conf";
        open my $handle, '>', $file or die;
        print $handle $changed;
        close $handle or die;
    }
    $t->httpd->{server_config} = "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1\nInclude \"$file\"\n";
    my $site = free_port();
    $t->httpd->{defines} = { CHAT_PORT => $site, $defines->($t) };
    $t->start;
    $t->upstream->script(echo => "token You said \ntoken \$message\ndone\n");
    return ($t, $site);
}

# What a command printed; $? says how it ended.
sub said_by
{
    my (@command) = @_;
    open my $pipe, '-|', 'timeout', 40, 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command or die;
    my $said = do { local $/; <$pipe> };
    close $pipe;
    return $said // '';
}

sub run_ctl { return said_by($ctl, @_) }

# Two streams and a refusal, in a database that is reached by DBI and by chatstreamctl.
sub keeps_records
{
    my ($name, $t, $site, $dbh, $where) = @_;
    my $ask = sub { return $t->request($_[0], port => $site, @_[ 1 .. $#_ ]) };
    my $stream = $ask->("$STREAM?message=PLANTED-one");
    is $stream->answer, 'You said PLANTED-one', "$name: it streams";
    is $ask->('/api/v1/chat', json => { message => 'PLANTED-two' })->json->{content}, 'You said PLANTED-two', "$name: and answers at once";

    my ($dbi, $rows);
    my $settled = wait_until(sub {
        $dbi ||= eval { $dbh->() } or return 0;
        $rows = eval { $dbi->selectall_arrayref("SELECT * FROM streaming_sessions ORDER BY created_at", { Slice => {} }) } || [];
        return @$rows == 2 && !grep { $_->{status} eq 'active' } @$rows;
    }, 15);
    ok $settled, "$name: both are in the database" or return;
    is join(' ', map { "$_->{profile} $_->{status} $_->{db_saved}" } @$rows), 'chat completed 1 chat-complete completed 1', "$name: whole, and saved";
    is $rows->[0]{id}, $stream->header('x-stream-id'), "$name: under the id the client knows";
    is join('; ', map { $_->[0] } @{ $dbi->selectall_arrayref('SELECT content FROM chat_messages ORDER BY session_id, role DESC') }),
        'PLANTED-one; You said PLANTED-one; PLANTED-two; You said PLANTED-two', "$name: with their conversations";

    my $audit = $ask->('/admin/audit');
    is $audit->status, 200, "$name: /admin/audit answers here";
    is join(' ', sort map { $_->{event} } @{ $audit->json->{rows} }), 'stream_close stream_close stream_open stream_open', "$name: with the trail";
    unlike $audit->body, qr/PLANTED|127\.0\.0\.1/, "$name: that has no text and no address";
    is $ask->('/admin/audit', headers => [ 'X-Forwarded-For' => '203.0.113.9' ])->status, 403, "$name: and nowhere else";
    like run_ctl(@$where, 'audit', 'verify'), qr/the trail is what was written/, "$name: it verifies";
    like run_ctl(@$where, 'status'), qr/completed +2 /, "$name: chatstreamctl counts them";
    $dbi->disconnect;
    $t->allow_log(qr/\[authz_core:error\]/);
    return;
}

# ---- SQLite, as it is: with and without mod_dbd ------------------------------------------------------------------------------

for my $modules ([], ['dbd']) {
    my $name = @$modules ? 'SQLite beside mod_dbd' : 'SQLite';
    my ($t, $site) = with_example('chat', $modules, sub { (LLM_URL => $_[0]->upstream->url . '/sse?script=echo') });
    my $state = $t->dir . '/run/chatstream';
    my $file = "$state/chatstream.db";
    keeps_records($name, $t, $site, sub { -e $file && DBI->connect("dbi:SQLite:dbname=$file", '', '', { RaiseError => 1, PrintError => 0, sqlite_busy_timeout => 10_000 }) },
        [ '--db', "sqlite3:$file", '--state', $state ]);
    is sprintf('%o', (stat $state)[2] & 07777), '700', "$name: the directory is the children's alone";
    is((stat $file)[2] & 07, 0, "$name: and the file nobody else's");
    $t->check;
    # Children that close the file in the same moment leave SQLite's log beside it: each sees the other.
    is join(' ', map { s{.*/}{}r } grep { !/\.(?:head|anchors?|db-wal|db-shm)$/ } glob "$state/*"), 'chatstream.db', "$name: in the end everything is in it";
}

# ---- PostgreSQL: two lines ---------------------------------------------------------------------------------------------------

{
    my $database;
    my $two_lines = sub {
        my ($t, $text) = @_;
        $database = ChatStream::Database->new(kind => 'pgsql', dir => $t->dir)->start;
        my $changed = $text =~ s/^#(DBDriver pgsql)$/$1/mr;
        $changed =~ s/^#DBDParams "host=.*"$/'DBDParams "' . $database->params . '"'/me;
        my @before = split /\n/, $text;
        my @after = split /\n/, $changed;
        is scalar(grep { $before[$_] ne $after[$_] } 0 .. $#before), 2, 'PostgreSQL: two lines are changed';
        is scalar(@after), scalar(@before), 'and none is added';
        return $changed;
    };
    my ($t, $site) = with_example('chat', ['dbd'], sub { my ($t) = @_; (LLM_URL => $t->upstream->url . '/sse?script=echo', CHAT_STATE_DIR => $t->dir . '/state') }, $two_lines);
    keeps_records('PostgreSQL', $t, $site, sub { $database->dbh }, [ '--db', $database->ctl, '--state', $t->dir . '/state' ]);
    ok !-e $t->dir . '/state/chatstream.db', 'PostgreSQL: and there is no SQLite file';
    $t->check;
    # Children that close the file in the same moment leave SQLite's log beside it: each sees the other.
    is join(' ', map { s{.*/}{}r } glob $t->dir . '/state/*.{journal,open,lock}'), '', 'PostgreSQL: in the end nothing waits';
}

# ---- bali-zero: a trail without text -----------------------------------------------------------------------------------------

{
    my ($t, $site) = with_example('bali-zero', [], sub {
        my ($t) = @_;
        return (RAG_URL => $t->upstream->url . '/sse?script=echo', CHAT_STATE_DIR => $t->dir . '/state', CHAT_FLAG_FILE => $t->dir . '/flags.json');
    });
    my $path = '/api/v2/bali-zero';
    is $t->request("$path/chat-stream?query=PLANTED-one", port => $site)->answer, 'You said PLANTED-one', 'bali-zero: it streams';
    is $t->request("$path/chat", port => $site, json => { query => 'PLANTED-two' })->status, 200, 'bali-zero: and answers at once';
    my $file = $t->dir . '/state/chatstream.db';
    my $dbi;
    my $value = sub { $dbi ||= -e $file && DBI->connect("dbi:SQLite:dbname=$file", '', '', { RaiseError => 1, PrintError => 0 }); return $dbi && eval { $dbi->selectrow_array($_[0]) } // -1 };
    ok wait_until(sub { $value->("SELECT count(*) FROM audit_log WHERE event = 'stream_close'") == 2 }, 15), 'bali-zero: the trail has both';
    is $value->("SELECT count(*) FROM streaming_sessions WHERE status = 'completed'"), 2, 'bali-zero: so have the sessions';
    is $value->('SELECT count(*) FROM chat_messages'), 0, 'bali-zero: but no conversation is kept';
    $dbi->disconnect;
    my @found = map { my $one = $_; my $text = slurp($one) // ''; $text =~ /PLANTED/ ? $one : () } glob $t->dir . '/{state,logs}/*';
    is "@found", '', 'bali-zero: nor a word in any file';

    # chatstreamctl flags set rollout=25, as it is written.
    my $health = sub { return $t->request('/health', port => $site)->json };
    is $health->()->{rollout}, 100, 'flags: all are in';
    is run_ctl('flags', 'set', 'rollout=25'), "chatstreamctl: flags set needs --file, or CHATSTREAM_FLAG_FILE in the environment (see chatstreamctl --help)\n",
        'flags: which file is to be said';
    is $? >> 8, 2, 'flags: else it is wrong use';
    {
        local $ENV{CHATSTREAM_FLAG_FILE} = $t->dir . '/flags.json';
        run_ctl('flags', 'set', 'rollout=25');
        is $?, 0, 'flags: by the environment';
        like run_ctl('flags', 'get'), qr/^rollout=25$/m, 'flags: it reads the same file';
        run_ctl('flags', 'set', 'rollout=40', '--file', $t->dir . '/other.json');
        like run_ctl('flags', 'get', '--file', $t->dir . '/other.json'), qr/^rollout=40$/m, 'flags: --file comes first';
        local $ENV{CHATSTREAM_FLAG_FILE} = '';
        run_ctl('flags', 'get');
        is $? >> 8, 2, 'flags: an empty variable is none';
    }
    ok wait_until(sub { $health->()->{rollout} == 25 }, 10), 'flags: and the server follows';
    like run_ctl('--help'), qr/CHATSTREAM_FLAG_FILE/, 'flags: the help tells';
    $t->check;
}

# ---- the demo ----------------------------------------------------------------------------------------------------------------

SKIP: {
    skip 'the demo is of the directory it was built in', 1 if build_dir() ne source_dir();
    skip 'the demo preloads no sanitizer', 1 if $sanitized;
    my $dir = File::Temp->newdir('chatstream-demo-test-XXXXXX', TMPDIR => 1);
    chmod 0755, $dir;
    my $port = free_port();
    local @ENV{qw(TMPDIR PORT)} = ("$dir", $port);
    my $demo = ChatStream::Process->start(name => 'demo', output => "$dir/said", command => [ source_dir() . '/script/demo' ]);
    my $started = wait_until(sub { !$demo->alive || (slurp("$dir/said") // '') =~ /Ctrl-C ends it/ }, 25) && $demo->alive;
    ok $started, 'demo: it starts' or diag(slurp("$dir/said")), last SKIP;
    my $stream = ChatStream::Client->new(port => $port, path => "$STREAM?message=Hello");
    is join(' ', (map { $_->{json}{type} } $stream->events)[-1]), 'complete', 'demo: and streams';
    my $rows = sub { my $answer = ChatStream::Client->new(port => $port, path => '/admin/audit'); return eval { JSON::PP::decode_json($answer->body)->{rows} } || [] };
    ok wait_until(sub { @{ $rows->() } == 2 }, 15), 'demo: with records';
    $demo->signal('INT');
    ok wait_until(sub { !$demo->alive }, 20), 'demo: it ends';
    is join(' ', glob "$dir/chatstream-*"), '', 'demo: and leaves nothing';
    my $said = said_by(source_dir() . '/script/demo', '--once', 'Once');
    is $?, 0, 'demo --once: exit 0' or diag $said;
    like $said, qr/^data: \{"type":"complete"/m, 'demo --once: complete';
    is join(' ', glob "$dir/chatstream-*"), '', 'demo --once: leaves nothing';
}
done_testing();
