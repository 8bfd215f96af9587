# SPDX-License-Identifier: Apache-2.0
package ChatStream::Test;

# The one fixture of all tests that need a server: a private httpd with the module under test, the upstream simulator behind
# it, and clients that see every event as it comes.
#
#     use FindBin;
#     use lib "$FindBin::Bin/../lib";
#     use ChatStream::Test;
#
#     my $t = ChatStream::Test->new(mpm => 'event', config => chat('/chat', 'sse?script=two'));
#     $t->upstream->script(two => "token Hel\nwait seen\ntoken lo\ndone\n");
#     my $stream = $t->stream('/chat?message=hi');
#     is $stream->event_of('token')->{json}{content}, 'Hel', 'the first token comes while the upstream still waits';
#     $t->upstream->signal('seen');
#     is $stream->answer, 'lo', 'then the rest';
#     $t->done;
#
# done() stops everything and fails the test when httpd logged a warning nobody expected, a child crashed, a sanitizer
# spoke, or a stream, a connection or a file descriptor was left behind. CHATSTREAM_KEEP=1 keeps the directory.

use strict;
use warnings;

use ChatStream::Client;
use ChatStream::Curl;
use ChatStream::Database;
use ChatStream::Httpd;
use ChatStream::Process qw(children_of free_port slurp wait_until);
use ChatStream::Source qw(source_dir);
use ChatStream::Upstream;
use File::Temp ();
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = (@Test::More::EXPORT, qw(chat patient free_port slurp wait_until source_dir build_dir));

sub import
{
    my ($class, @arguments) = @_;
    strict->import;
    warnings->import;
    Test::More->import(@arguments) if @arguments;
    no strict 'refs';
    my $caller = caller;
    for my $name (@EXPORT) {
        my ($kind, $symbol) = $name =~ /^([\$\@%&]?)(.*)$/;
        my $from = defined &{"ChatStream::Test::$symbol"} ? "ChatStream::Test::$symbol" : "Test::More::$symbol";
        *{"${caller}::$symbol"} = $kind eq '$' ? \${$from} : \&{$from};
    }
    return;
}

sub build_dir { $ENV{CHATSTREAM_BUILDDIR} || source_dir() }

# Text of a <Location> that streams from `path` on the upstream; more directives may follow, one per argument.
sub chat
{
    my ($location, $path, @directives) = @_;
    my $url = $path =~ m{^[a-z]+:} ? $path : "\${UPSTREAM}/$path";
    my $upstream = (grep { /^\s*ChatStreamUpstream\s/m } @directives) ? '' : qq(    ChatStreamUpstream "$url"\n);
    return qq(<Location "$location">\n    SetHandler chatstream\n    ChatStreamEnabled On\n$upstream)
        . join('', map { "    $_\n" } @directives) . "</Location>\n";
}

# For streams that wait until the test lets them go on: no clock of the module runs out on a slow machine.
sub patient { return "ChatStreamTimeout 900 headers=900 first-token=900 idle=900\n" }

# Options: everything ChatStream::Httpd->new takes (without dir and module), and
#   upstreams   list of option hashes, one simulator each ([{}]); the configuration knows them as ${UPSTREAM},
#               ${UPSTREAM2} ..., with unix => 1 also as ${UPSTREAM_SOCKET}, ${UPSTREAM2_SOCKET} ...; tls => 1: with TLS
#   start       0: do not start httpd yet
#   database    sqlite3, pgsql, mysql: one of its own; or a ChatStream::Database that runs already. mod_dbd is set to it, and
#               ChatStreamStateDir to a directory of the test
#   records     what of the records is not looked at in the end, where a test breaks it on purpose: { journal => 0: it need
#               not be empty; sessions => 0: rows may still be active; audit => 0: the trail need not verify; openings => 0:
#               nor have each stream's beginning and end }
sub new
{
    my ($class, %options) = @_;
    my $upstreams = delete $options{upstreams} || [ {} ];
    my ($database, $records) = (delete $options{database}, delete $options{records});
    my $start = delete $options{start} // 1;
    my $self = bless { owner => $$, expected => [], allowed => [], baseline => {} }, $class;

    $self->{tempdir} = File::Temp->newdir('chatstream-XXXXXX', TMPDIR => 1, CLEANUP => !$ENV{CHATSTREAM_KEEP});
    my $dir = $self->{dir} = $self->{tempdir}->dirname;
    # The children run as www-data and have to reach what is in it.
    chmod 0755, $dir;
    diag "kept: $dir" if $ENV{CHATSTREAM_KEEP};
    $self->{records} = { journal => 1, sessions => 1, audit => 1, openings => 1, %{ $records || {} } };
    if ($database) {
        $database = $self->{own_database} = ChatStream::Database->new(kind => $database, dir => $dir)->start if !ref $database;
        $self->{database} = $database;
        $options{modules} = [ 'dbd', @{ $options{modules} || [] } ];
        $options{database_port} = $database->port;
        # Each child has one connection, of its store thread.
        $options{first_config} = 'DBDriver ' . $database->driver . "\nDBDParams \"" . $database->params . "\"\nDBDMin 0\n"
            . 'ChatStreamStateDir "' . $self->state_dir . "\"\n";
    }

    $self->{httpd} = ChatStream::Httpd->new(
        dir => $dir, module => $ENV{CHATSTREAM_MODULE} || build_dir() . '/.libs/mod_chatstream.so',
        defines => {}, %options,
    );
    my $program = $ENV{CHATSTREAM_UPSTREAM} || build_dir() . '/tools/chatstream-upstream';
    for my $wanted (@$upstreams) {
        my %wanted = %$wanted;
        if ($wanted{tls}) {
            $self->{httpd}->make_certificate;
            $wanted{tls} = [ @{ $self->{httpd} }{qw(cert key)} ];
        }
        my $upstream = ChatStream::Upstream->new(program => $program, dir => $dir, %wanted);
        push @{ $self->{upstreams} }, $upstream;
        my $name = 'UPSTREAM' . (@{ $self->{upstreams} } > 1 ? scalar @{ $self->{upstreams} } : '');
        $self->{httpd}{defines}{$name} = $upstream->url;
        $self->{httpd}{defines}{"${name}_SOCKET"} = $upstream->unix_path if $upstream->unix_path;
    }
    $self->{httpd}{defines}{CA} = $self->{httpd}{ca} if $self->{httpd}{ca};
    $self->start if $start;
    return $self;
}

sub httpd { $_[0]{httpd} }
sub dir   { $_[0]{dir} }
sub database { $_[0]{database} }
sub state_dir { "$_[0]{dir}/state" }
sub upstream { my ($self, $number) = @_; return $self->{upstreams}[ ($number || 1) - 1 ] }

sub start
{
    my ($self) = @_;
    $self->{httpd}->start;
    $self->{started} = 1;
    $self->_take_baseline;
    return $self;
}

sub graceful { my ($self) = @_; $self->{httpd}->graceful; $self->_take_baseline; return $self }
sub restart  { my ($self) = @_; $self->{httpd}->restart; $self->_take_baseline; return $self }
sub graceful_stop { my ($self) = @_; $self->{stopped} = 1; return $self->{httpd}->graceful_stop }
sub stop { my ($self, @rest) = @_; $self->{stopped} = 1; return $self->{httpd}->stop(@rest) }
sub children  { return $_[0]{httpd}->children }
sub error_log { return $_[0]{httpd}->log }
sub access_log { return $_[0]{httpd}->access_log }

# Ends a child with a signal (KILL). What httpd says about that is allowed.
sub kill_child
{
    my ($self, $signal, $pid) = @_;
    $pid = $self->{httpd}->kill_child($signal, $pid);
    push @{ $self->{allowed} }, qr/AH0005[12].*child.* pid $pid exit/, qr/AH00169|AH00045.*\b$pid\b/;
    return $pid;
}

# ---- clients -----------------------------------------------------------------------------------------------------------

# Opens a request and reads the head of its answer. Options as ChatStream::Client->new; tls => 1 takes the TLS port,
# http2 => 1 asks through curl.
sub stream
{
    my ($self, $path, %options) = @_;
    my $stream = $self->open($path, %options);
    $stream->read_head;
    return $stream;
}

# The same without waiting for the head.
sub open
{
    my ($self, $path, %options) = @_;
    my $port = $options{tls} ? $self->{httpd}->tls_port : $self->{httpd}->port;
    my $class = delete $options{http2} ? 'ChatStream::Curl' : 'ChatStream::Client';
    return $class->new(port => $port, path => $path, $options{tls} ? (ca => $self->{httpd}{ca}) : (), %options);
}

# The same as stream() and open(), but it is the child `pid` that serves the connection.
sub stream_on
{
    my ($self, $pid, @rest) = @_;
    my $stream = $self->open_on($pid, @rest);
    $stream->read_head;
    return $stream;
}

sub open_on { my ($self, $pid, @rest) = @_; return $self->{httpd}->connect_to($pid, sub { $self->open(@rest) }) }

sub child_of { my ($self, $stream) = @_; return $self->{httpd}->child_of($stream) }

# One request, answered whole: status, header(...), body, json.
sub request
{
    my ($self, $path, %options) = @_;
    my $answer = $self->stream($path, %options);
    $answer->body;
    $answer->close;
    return $answer;
}

sub health { my ($self) = @_; return $self->request('/-/health')->json }

# Waits until so many streams are active, as the health handler counts them; false after `timeout` seconds.
sub wait_active
{
    my ($self, $number, $timeout) = @_;
    return wait_until(sub { ($self->health->{streams}{active} // -1) == $number }, $timeout || 10);
}

# ---- records -----------------------------------------------------------------------------------------------------------

# Runs chatstreamctl on this server's database and state directory: (exit status, output, complaint).
sub ctl
{
    my ($self, @arguments) = @_;
    my $program = $ENV{CHATSTREAM_CTL} || build_dir() . '/chatstreamctl';
    my @where = ('--db', $self->{database}->ctl, '--state', $self->state_dir);
    my $out = File::Temp->new(DIR => $self->{dir});
    my $err = File::Temp->new(DIR => $self->{dir});
    my $process = ChatStream::Process->start(
        name => 'chatstreamctl',
        command => [ 'sh', '-c', 'out=$1 err=$2; shift 2; exec "$@" >"$out" 2>"$err"', 'sh', "$out", "$err", $program, @where, @arguments ],
    );
    wait_until(sub { !$process->alive }, 60) or die "chatstreamctl @arguments hangs\n";
    return ($process->status >> 8 || $process->status, slurp("$out"), slurp("$err"));
}

# Streams that somebody has on a list of open ones: their records are not finished.
sub open_streams
{
    my ($self) = @_;
    my $count = 0;
    for my $file (glob $self->state_dir . '/*.open') {
        my $bytes = slurp($file) // '';
        $count += (unpack 'V', substr $bytes, $_ * 2048, 4) != 0 for 0 .. int((length($bytes) + 2044) / 2048) - 1;
    }
    return $count;
}

# Facts that wait in the journals of all children, dead ones included.
sub waiting_facts
{
    my ($self) = @_;
    return 0 if !-d $self->state_dir;
    my ($rc, $said, $complaint) = $self->ctl('--json', 'journal', 'show');
    # A segment may go while it is being looked for.
    return -1 if $rc;
    return scalar grep { /"applied":(?:0|false)/ } split /\n/, $said;
}

# Waits until every stream has ended in the records and all of them are in the database; false after `timeout` seconds.
# The order matters: a stream leaves the list when its end is in the journal.
sub records_settled
{
    my ($self, $timeout) = @_;
    return wait_until(sub { !$self->open_streams && !$self->waiting_facts }, $timeout || 20);
}

# The row of streaming_sessions, waited for until it is not active any more (state => 'any': until it is there).
sub session
{
    my ($self, $id, $state) = @_;
    my ($row, @rows);
    wait_until(sub {
        @rows = eval { $self->{database}->query('SELECT * FROM streaming_sessions WHERE id = ?', $id) };
        $row = $rows[0];
        return $row && ($state || $row->{status} ne 'active');
    }, 20);
    return @rows > 1 ? die "two rows for $id\n" : $row || {};
}

# What has to be true of the records whenever httpd ended in order.
sub _check_records
{
    my ($self) = @_;
    my ($database, $look) = @$self{qw(database records)};
    return if !-d $self->state_dir || !$database->alive;
    if ($look->{journal}) {
        my @left = map { s{.*/}{}r } glob $self->state_dir . '/*.{journal,open,lock,corrupt,refused}';
        is "@left", '', 'the journal is in the database';
    }
    my ($rows) = eval { $database->query('SELECT count(*) AS n FROM streaming_sessions') };
    return if !$rows && $@;    # nothing was ever recorded
    if ($look->{sessions}) {
        is $database->value("SELECT count(*) FROM streaming_sessions WHERE status = 'active' OR completed_at IS NULL"), 0,
            'no session is left open';
    }
    if ($look->{audit}) {
        my ($rc, $said, $complaint) = $self->ctl('audit', 'verify');
        is $rc, 0, 'the audit trail verifies' or diag "$said$complaint";
    }
    if ($look->{openings}) {
        my @odd = $database->query(
            'SELECT stream_id, sum(CASE WHEN event = ? THEN 1 ELSE 0 END) AS opened, sum(CASE WHEN event = ? THEN 1 ELSE 0 END) AS closed'
                . " FROM audit_log WHERE event IN ('stream_open', 'stream_close') GROUP BY stream_id"
                . ' HAVING sum(CASE WHEN event = ? THEN 1 ELSE 0 END) <> 1 OR sum(CASE WHEN event = ? THEN 1 ELSE 0 END) <> 1',
            ('stream_open', 'stream_close') x 2,
        );
        is join(', ', map { "$_->{stream_id}: $_->{opened} opened, $_->{closed} closed" } @odd), '',
            'each stream was opened once and closed once in the audit trail';
    }
    return;
}

# ---- what the log may say ----------------------------------------------------------------------------------------------

# A line that has to be logged at least once before done().
sub expect_log { my ($self, @patterns) = @_; push @{ $self->{expected} }, @patterns; return }

# A line that may be logged.
sub allow_log { my ($self, @patterns) = @_; push @{ $self->{allowed} }, @patterns; return }

sub wait_log
{
    my ($self, $pattern, $timeout) = @_;
    return wait_until(sub { $self->error_log =~ $pattern }, $timeout || 10);
}

# The fixture gives httpd exactly the children a test asked for, and httpd remarks that these are all in use.
my @HARMLESS = (qr/AH00161:|AH00286:|AH00484:|AH00485:/);

my $TROUBLE = qr/\[[\w-]*:(?:emerg|alert|crit|error|warn)\]|AH0005[12]|exit signal|Sanitizer|runtime error:|Assertion|assert\(/;

sub unexpected_log_lines
{
    my ($self) = @_;
    my @lines = grep { /$TROUBLE/ } split /\n/, $self->{httpd}->startup_log . $self->error_log;
    for my $pattern (@HARMLESS, @{ $self->{expected} }, @{ $self->{allowed} }) {
        @lines = grep { $_ !~ $pattern } @lines;
    }
    return @lines;
}

# ---- the end -----------------------------------------------------------------------------------------------------------

sub _take_baseline
{
    my ($self) = @_;
    my @ports = map { $_->port } @{ $self->{upstreams} };
    # A child is there before its threads have opened what they need: the MPM's poll set, the loop's, and what libcurl
    # adds. Wait for both sets, and until nothing new has appeared for a moment.
    my ($counted, $since) = ('', time);
    my %now;
    wait_until(sub {
        %now = map { $_ => $self->{httpd}->descriptors($_, @ports) } $self->children;
        my $count = join ' ', map { "$_:$now{$_}{other}" } sort keys %now;
        ($counted, $since) = ($count, time) if $count ne $counted;
        return time - $since > 0.1 && !grep { ($_->{names}{'anon_inode:[eventpoll]'} || 0) < 2 } values %now;
    }, 3);
    $self->{baseline}{$_} ||= $now{$_} for keys %now;
    return;
}

# A child may open a few things when they are first needed (a random device, a resolver's socket).
my $SLACK = 4;

# The recorder's own: journal, its lock, the open list, the database with its log and shared memory, those of a dead child it has
# adopted, and one being opened anew.
my $RECORDS = 16;

sub _leaked_descriptors
{
    my ($self) = @_;
    my @ports = map { $_->port } @{ $self->{upstreams} };
    my ($any) = sort { $b->{other} <=> $a->{other} } values %{ $self->{baseline} };
    my @found;
    for my $pid ($self->children) {
        my $now = $self->{httpd}->descriptors($pid, @ports);
        my $before = $self->{baseline}{$pid} || $any;
        push @found, "child $pid holds $now->{records} files of the records" if $now->{records} > $RECORDS;
        push @found, "child $pid holds $now->{client} client connections" if $now->{client};
        if ($now->{other} > $before->{other} + $SLACK) {
            my @new = map { $now->{names}{$_} > ($before->{names}{$_} || 0) ? "$_ ($now->{names}{$_})" : () } sort keys %{ $now->{names} };
            push @found, "child $pid holds $now->{other} descriptors, $before->{other} at its start; new: @new";
        }
    }
    return @found;
}

# The checks without the end of the test: for tests that go on with another server.
sub check
{
    my ($self) = @_;
    return if $self->{checked}++;
    if ($self->{started} && !$self->{stopped}) {
        my $health;
        my $idle = wait_until(sub { $health = eval { $self->health }; $health && !$health->{streams}{active} }, 15);
        ok $idle, 'no stream is left' or diag 'health: ' . ($health ? JSON::PP->new->canonical->encode($health) : "no answer: $@");
        my ($streams, $arena) = @{ $health || {} }{qw(streams arena)};
        if ($idle && $arena && defined $streams->{kept} && !$streams->{kept}) {
            is $arena->{free}, $arena->{blocks}, 'no block is left';
        }
        my @leaked;
        wait_until(sub { @leaked = $self->_leaked_descriptors; !@leaked }, 30);
        is "@leaked", '', 'no descriptor is left';
        ok $self->{httpd}->stop, 'httpd stops in time';
    }
    $self->{httpd}->stop if $self->{started};
    my $status = $self->{started} && $self->{httpd}{process}->status;
    is $status & 127, 0, 'httpd ended without a signal' if $self->{started};
    $self->_check_records if $self->{database} && $self->{started};
    for my $upstream (@{ $self->{upstreams} }) {
        $upstream->stop;
        unlike $upstream->log, qr/Sanitizer|runtime error:/, 'the simulator is healthy';
    }
    my @lines = $self->unexpected_log_lines;
    ok !@lines, 'nothing unexpected in the error log' or diag join "\n", @lines[ 0 .. ($#lines < 19 ? $#lines : 19) ];
    my $log = $self->{httpd}->startup_log . $self->error_log;
    for my $pattern (@{ $self->{expected} }) {
        like $log, $pattern, 'the error log has what was expected';
    }
    return;
}

sub done
{
    my ($self) = @_;
    $self->check;
    $self->_show_log if !Test::More->builder->is_passing;
    done_testing();
    return;
}

sub _show_log
{
    my ($self) = @_;
    my @lines = split /\n/, $self->error_log;
    splice @lines, 0, @lines - 30 if @lines > 30;
    diag join "\n", 'the end of the error log:', @lines;
    return;
}

sub DESTROY
{
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $@, $!);
    # Before the directory goes.
    $self->{httpd}->stop if $self->{httpd};
    $_ && $_->stop for @{ $self->{upstreams} || [] }, $self->{own_database};    # at the very end Perl takes things apart in any order
    return;
}

1;
